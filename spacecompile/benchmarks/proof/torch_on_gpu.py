"""PyTorch on a GPU, as the proof uses it: honest float32, and errors that a user can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch

from spacecompile.contract import Tta
from spacecompile.errors import DeviceError, first_line_of
from spacecompile.export.parity.reference import ExpectedAnswer
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.network.checkpoint import LoadedCheckpoint
from spacecompile.runtime.backend import RawAnswer


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


@torch.inference_mode()
def answers_on_gpu(
    checkpoint: LoadedCheckpoint, tta: Tta, on_cpu: Sequence[ExpectedAnswer], *, device: str
) -> tuple[ExpectedAnswer, ...]:
    """What the same network answers in PyTorch on the GPU, in float32 without TF32.

    Args:
        checkpoint: Weights and spec; its network stays where it is.
        tta: Test-time augmentation.
        on_cpu: The CPU's answers; the box band around the threshold is theirs.
        device: Device of PyTorch.

    Raises:
        DeviceError: If PyTorch fails on the GPU.
    """
    answers = []
    with torch_on_gpu():
        # A copy: after an error that sticks a network could not be moved back, and whoever runs it next would fail.
        graph = SealedGraph(deepcopy(checkpoint.network), checkpoint.spec, tta).to(device)
        for case in on_cpu:
            # The graph makes small constants as it goes, which have to be where the rest is.
            with torch.device(device):
                outputs = graph(torch.from_numpy(case.frame.frame_HWC).to(device))
            class_probs_L, parts_HW, box_xyxy, health = (output.cpu().numpy() for output in outputs)
            answer = RawAnswer(class_probs_L=class_probs_L, parts_HW=parts_HW, box_xyxy=box_xyxy, health=health)
            boxes_B4 = np.concatenate([case.boxes_B4, box_xyxy[None]])
            answers.append(replace(case, answer=answer, boxes_B4=boxes_B4))
    return tuple(answers)
