"""Sealed graphs on an NVIDIA GPU: one launch per frame, no torch.

`device` is the small interface to CUDA, `bindings` its one implementation; `source` takes frames that are on a GPU
already; `slot` holds what one frame in flight needs; `backend` runs an `engine` on N slots. `driver` and `engine_api`
say what this machine has. Nothing here imports CUDA before a device is opened.
"""
