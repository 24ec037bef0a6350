"""Two results files side by side, with intervals, so that a regression fails a build."""
