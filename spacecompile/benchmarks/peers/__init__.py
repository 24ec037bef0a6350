"""What a skilled user would run instead, measured beside the bundle on the same frames."""
