"""Training frames: decoding, views, loading and the store of decoded frames."""
