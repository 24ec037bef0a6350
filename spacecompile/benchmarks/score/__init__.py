"""The benchmark's score of each variant and of PyTorch."""
