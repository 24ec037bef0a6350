"""Checkpoints of other libraries: which network wrote them, and its weights in ours."""
