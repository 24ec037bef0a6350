"""What runs a sealed graph: one module per engine, each an adapter that fulfils `runtime.backend.Backend`.

`registry` lists them and chooses one, `speed` knows which is fastest where, and `stopwatch` times any of them. `raw`
and the modules that end in `_raw` run graphs that are not sealed.

A backend takes the bytes of one graph file, never a path: the caller has hashed those very bytes.

Layout legend: H, W frame rows and columns; C channels (RGB); L classes.
"""
