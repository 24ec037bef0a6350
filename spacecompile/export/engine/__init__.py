"""TensorRT engines: options, legality, building, and what is in the plan."""
