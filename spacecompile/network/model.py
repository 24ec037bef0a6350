"""The multi-task network: one shared encoder, a classifier on its deepest features, a decoder for the part masks.

Layout legend: N batch, C channels, H W input rows and columns, L classes, K parts, h w decoder rows and columns.
"""

from __future__ import annotations

import difflib
import inspect
import warnings
from typing import Any

import segmentation_models_pytorch as smp
import timm
from torch import Tensor, nn

from spacecompile.contract import PARTS, ModelSpec
from spacecompile.errors import CheckpointError
from spacecompile.network.encoder_index import BUILD_ERRORS
from spacecompile.network.head import SHUFFLE, shuffle_head

_OURS = frozenset(("self", "kwargs", "encoder_name", "encoder_depth", "encoder_weights", "classes", "aux_params"))
"""Arguments of smp's classes that are no decoder options: the spec says them in fields of its own."""


class MultiTaskNetwork(nn.Module):
    """Class logits and part logits of one batch of inputs.

    The children keep the names that `segmentation_models_pytorch` gives them, so that a bare smp state dict loads
    unchanged. Part logits leave at the decoder's own resolution: the sealed graph upsamples them once, straight to
    the frame, instead of twice as smp's head and a user's resize would.
    """

    def __init__(self, spec: ModelSpec) -> None:
        """Build the untrained network that a spec describes; nothing is downloaded.

        Raises:
            CheckpointError: If smp has no such architecture or refuses the combination.
        """
        super().__init__()
        model = _smp_model(spec)
        self.spec = spec
        # Factor of smp's own head, which is left out here.
        upsampling: Any = model.segmentation_head[1]
        self.head_upsampling: int = 1 if isinstance(upsampling, nn.Identity) else round(upsampling.scale_factor)
        # Upsampling belongs to the sealed graph, see the class docstring.
        model.segmentation_head[1] = nn.Identity()
        self.encoder: nn.Module = model.encoder
        self.decoder: nn.Module = model.decoder
        self.segmentation_head: nn.Module = model.segmentation_head
        if spec.part_head == "shuffle":
            self.segmentation_head = _shuffle_head(model, spec, self.head_upsampling)
        self.classification_head: nn.Module = model.classification_head

    def forward(self, input_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network.

        Args:
            input_NCHW: Normalised float input.

        Returns:
            Class logits [N, L] and part logits [N, K, h, w] before any upsampling.
        """
        features = self.encoder(input_NCHW)
        class_logits_NL: Tensor = self.classification_head(features[-1])
        part_logits_NKhw: Tensor = self.segmentation_head(self.decoder(features))
        return class_logits_NL, part_logits_NKhw


def _smp_model(spec: ModelSpec) -> Any:
    architecture = getattr(smp, spec.architecture, None)
    if not (isinstance(architecture, type) and issubclass(architecture, smp.base.SegmentationModel)):
        raise CheckpointError(
            f"segmentation_models_pytorch {smp.__version__} has no architecture {spec.architecture!r}. "
            "Name one of its classes, for example Segformer or Unet."
        )
    _check_options(architecture, spec)
    _check_encoder(spec.encoder)
    try:
        with warnings.catch_warnings():
            # smp deprecates names and options that old checkpoints have all the same.
            warnings.simplefilter("ignore", DeprecationWarning)
            return architecture(
                encoder_name=spec.encoder,
                encoder_depth=spec.encoder_depth,
                encoder_weights=None,
                classes=len(PARTS),
                aux_params={"classes": len(spec.classes), "dropout": spec.dropout},
                **spec.decoder_options,
            )
    except BUILD_ERRORS as error:
        raise CheckpointError(
            f"segmentation_models_pytorch refuses {spec.architecture} with encoder {spec.encoder}: {error}"
        ) from error


def _shuffle_head(model: Any, spec: ModelSpec, upsampling: int) -> nn.Module:
    if upsampling < SHUFFLE:
        raise CheckpointError(
            f"the decoder of {spec.architecture} already gives part logits at the input's size; part head 'shuffle' "
            "would make more of them than the input has pixels. Use part head 'plain'."
        )
    return shuffle_head(model.segmentation_head[0].in_channels)


def _check_options(architecture: type, spec: ModelSpec) -> None:
    """Refuse decoder options that smp's class would swallow without a word.

    What a class does not know it hands to the encoder: smp's own ignore it, timm's (`tu-`) refuse what they don't know.
    """
    known = sorted(inspect.signature(architecture).parameters.keys() - _OURS)
    # The older name of the same option, which smp still takes.
    unknown = [name for name in spec.decoder_options if name.replace("use_batchnorm", "use_norm") not in known]
    if spec.encoder.startswith(("tu-", "timm-")):
        unknown = [name for name in unknown if name in _OURS or name.startswith("decoder_")]
    if unknown:
        raise CheckpointError(
            f"smp's {spec.architecture} has no option {unknown[0]!r}; it has {', '.join(known)}. "
            "Check --decoder-options."
        )


def _check_encoder(name: str) -> None:
    """Refuse a name that smp and timm don't have, in one sentence where smp lists all of its own."""
    ours, timms = list(smp.encoders.encoders), name.startswith("tu-")
    if name.startswith("timm-") or name in ours or (timms and timm.is_model(name.removeprefix("tu-").split(".")[0])):
        return
    names = [f"tu-{model}" for model in timm.list_models()] if timms else ours
    closest = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    raise CheckpointError(
        f"smp has no encoder {name!r}"
        + (f"; closest are {', '.join(closest)}" if closest else "")
        + ". Check --encoder; timm's are named tu-NAME."
    )
