"""Frames and labels: the SPARK on-disk format, synthetic frames, submission files."""
