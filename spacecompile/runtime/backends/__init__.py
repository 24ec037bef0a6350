"""What runs a sealed graph: one small protocol, one file per engine.

A backend takes the bytes of one graph file, never a path: the caller has hashed those very bytes.

Layout legend: H, W frame rows and columns; C channels (RGB); L classes.
"""
