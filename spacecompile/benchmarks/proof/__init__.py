"""Proof on a target: the bundle's files and their peers on a GPU, judged against stated limits."""
