"""Search for networks and recipes, on Ray Tune. It sees both training and compiling: what counts is what ships."""
