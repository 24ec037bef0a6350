"""From a float32 sealed graph to the same graph in fewer bits: half precision with float32 islands, 8-bit integers."""
