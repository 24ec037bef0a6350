"""PyTorch on a GPU, as the proof uses it: honest float32, and errors that a user can read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spacecompile.errors import DeviceError, first_line_of


@contextmanager
def torch_on_gpu() -> Iterator[None]:
    """float32 is float32 inside, without TF32, as in the sessions.

    Raises:
        DeviceError: If PyTorch fails on the GPU.
    """
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts that there is one
        raise DeviceError(f"PyTorch failed on the GPU: {first_line_of(error)}.") from error
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
