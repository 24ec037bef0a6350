"""From parts to a box: rules and their calibration, losses and the regression head."""
