"""From a checkpoint to a certified bundle: rewrite, seal, export, prove, write. Needs the `compile` extra."""
