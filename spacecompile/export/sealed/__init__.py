"""The sealed graph, in the order in which a frame goes through it."""
