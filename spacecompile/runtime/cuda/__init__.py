"""Sealed graphs on an NVIDIA GPU: one launch per frame, no torch.

`device` is the small interface to CUDA, `bindings` its one implementation; `source` takes frames that are on a GPU
already; `slot` holds what one frame in flight needs; `backend` runs an `engine` on N slots; `answer` leaves the parts
mask where it is. `driver` and `engine_api` say what this machine has, `compatibility` whether a plan fits it. Nothing
here imports CUDA before a device is opened.
"""
