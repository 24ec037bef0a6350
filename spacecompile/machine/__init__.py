"""What this machine is and has: processor, versions, engines, and whether it is quiet."""
