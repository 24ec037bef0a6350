"""How near a file comes to what the machine can do, and how it scales."""
