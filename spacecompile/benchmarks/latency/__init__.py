"""How long a frame takes: in turns, paced, all cores at once, from a cold start, and with which energy."""
