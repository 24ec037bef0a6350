"""Synthetic frames of the ten SPARK spacecraft, ray cast and shaded on the CPU."""
