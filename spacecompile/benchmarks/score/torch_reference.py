"""A checkpoint's answers by PyTorch from raw frame to answer: the reference for every shipped file.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from spacecompile.benchmarks.agreement import Answered
from spacecompile.contract import Cost, Tta
from spacecompile.errors import CheckpointError, first_line_of
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.network.checkpoint import LoadedCheckpoint
from spacecompile.network.count import cost_of


class TorchReference:
    """The sealed graph of a checkpoint, neither rewritten nor exported, on the CPU."""

    engine = f"torch {torch.__version__}"

    def __init__(self, checkpoint: LoadedCheckpoint, tta: Tta) -> None:
        """Seal the network.

        Args:
            checkpoint: Weights and spec.
            tta: Test-time augmentation.
        """
        self._graph = SealedGraph(checkpoint.network, checkpoint.spec, tta)
        self._checkpoint = checkpoint

    def cost(self) -> Cost:
        """Of the network as it was trained."""
        return cost_of(self._checkpoint.network, self._checkpoint.spec.input_size_px)

    @torch.inference_mode()
    def __call__(self, frame_HWC: NDArray[np.uint8]) -> Answered:
        """Answer one frame.

        Raises:
            CheckpointError: If PyTorch can't run the network here.
        """
        try:
            class_probs_L, parts_HW, box_xyxy, _ = self._graph(torch.from_numpy(frame_HWC))
        except RuntimeError as error:
            raise CheckpointError(
                f"PyTorch {torch.__version__} can't run the checkpoint's network: {first_line_of(error)}. "
                "Check the free memory."
            ) from error
        return Answered(class_probs_L=class_probs_L.numpy(), parts_HW=parts_HW.numpy(), box_xyxy=box_xyxy.numpy())
