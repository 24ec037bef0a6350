"""The parity certificate: every file on disk against PyTorch."""
