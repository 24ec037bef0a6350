"""The network that is compiled, its checkpoints and its cost. Needs the `compile` extra."""
