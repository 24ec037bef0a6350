"""Training: labelled frames in, checkpoint out. Needs the `train` extra."""
