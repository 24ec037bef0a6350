"""The multi-task network: one shared encoder, a classifier on its deepest features, a decoder for the part masks.

Layout legend: N batch, C channels, H W input rows and columns, L classes, K parts, h w decoder rows and columns,
S places of the deepest features.
"""

from __future__ import annotations

import difflib
import inspect
import warnings
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from spacecompile.box_rule import BoxHead
from spacecompile.contract import PARTS, ModelSpec
from spacecompile.errors import CheckpointError
from spacecompile.network.class_head import MaskPooledClassifier
from spacecompile.network.head import BUILD_ERRORS, SHUFFLE, shuffle_head
from spacecompile.network.unused import without_unused_layers

_OURS = frozenset(("self", "kwargs", "encoder_name", "encoder_depth", "encoder_weights", "classes", "aux_params"))
"""Arguments of smp's classes that are no decoder options: the spec says them in fields of its own."""


class BoxResidualHead(nn.Module):
    """How far each side of the craft lies outside of the mask's box, from the encoder's deepest features.

    Each side looks for its own places: what it says is a mean over them with learnt weights, because the mean over the
    whole frame, of which a craft covers a few percent, would say little.
    """

    def __init__(self, feature_channels: int, shape: BoxHead) -> None:
        """Build the head; before training it says zero everywhere."""
        super().__init__()
        self.bound = shape.bound
        self.reduce = nn.Conv2d(feature_channels, shape.channels, kernel_size=1)
        self.where = nn.Conv2d(shape.channels, 4, kernel_size=1)
        self.much = nn.Conv2d(shape.channels, 4, kernel_size=1)
        nn.init.zeros_(self.much.weight)
        assert self.much.bias is not None  # as built above
        nn.init.zeros_(self.much.bias)

    def forward(self, features_NChw: Tensor) -> Tensor:
        """Look at the deepest features.

        Returns:
            Growth [N, 4] to the left, top, right and bottom as a share of the box's width or height, within the bound.
        """
        reduced_NChw = torch.relu(self.reduce(features_NChw))
        weights_N4S = torch.softmax(self.where(reduced_NChw).flatten(2), dim=2)
        residuals_N4 = (weights_N4S * self.much(reduced_NChw).flatten(2)).sum(dim=2)
        return self.bound * torch.tanh(residuals_N4)


class MultiTaskNetwork(nn.Module):
    """Class logits, part logits and perhaps box residuals of one batch of inputs.

    The children keep the names that `segmentation_models_pytorch` gives them, so that a bare smp state dict loads
    unchanged. Part logits leave at the decoder's own resolution: the sealed graph upsamples them once, straight to
    the frame, instead of twice as smp's head and a user's resize would.
    """

    def __init__(self, spec: ModelSpec, *, whole_encoder: bool = False) -> None:
        """Build the untrained network that a spec describes; nothing is downloaded.

        Args:
            spec: Description of the network.
            whole_encoder: Whether to keep the layers of smp's encoder that no feature depends on, as a file that smp
                wrote has them. Only such a file needs them: they cost parameters, and in timm's encoders time.

        Raises:
            CheckpointError: If smp has no such architecture or refuses the combination.
        """
        super().__init__()
        model = _smp_model(spec)
        if not whole_encoder:
            _cut_encoder(model.encoder, spec)
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
        self.classification_head: nn.Module = _class_head(model, spec)
        self.box_head: nn.Module | None = None
        if spec.box_head is not None:
            self.box_head = BoxResidualHead(model.encoder.out_channels[-1], spec.box_head)

    def forward(self, input_NCHW: Tensor) -> tuple[Tensor, ...]:
        """Run the network.

        Args:
            input_NCHW: Normalised float input.

        Returns:
            Class logits [N, L], part logits [N, K, h, w] before any upsampling and, where the spec has a box head, its
            residuals [N, 4].
        """
        features = self.encoder(input_NCHW)
        decoded_NChw: Tensor = self.decoder(features)
        part_logits_NKhw: Tensor = self.segmentation_head(decoded_NChw)
        class_logits_NL = self.class_logits(features[-1], decoded_NChw, part_logits_NKhw)
        if self.box_head is None:
            return class_logits_NL, part_logits_NKhw
        return class_logits_NL, part_logits_NKhw, self.box_head(features[-1])

    def class_logits(self, deepest_NChw: Tensor, decoded_NChw: Tensor, part_logits_NKhw: Tensor) -> Tensor:
        """Run the classifier on what it looks at.

        Args:
            deepest_NChw: The encoder's last features.
            decoded_NChw: The decoder's output.
            part_logits_NKhw: The segmentation head's output.

        Returns:
            Class logits [N, L].
        """
        class_logits_NL: Tensor
        if self.spec.class_pooling == "mean":
            class_logits_NL = self.classification_head(deepest_NChw)
        else:
            offset = self.spec.part_logit_offset  # of a rewritten network; what weighs are true probabilities
            true_NKhw = part_logits_NKhw + offset if offset else part_logits_NKhw
            class_logits_NL = self.classification_head(deepest_NChw, decoded_NChw, true_NKhw)
        return class_logits_NL


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


def _cut_encoder(encoder: nn.Module, spec: ModelSpec) -> None:
    """Take out what no feature depends on; only shapes are computed for it."""
    try:
        without_unused_layers(encoder, torch.zeros(1, 3, *spec.input_size_px, device="meta"))
    except BUILD_ERRORS:
        # An encoder that does not run at this size, or not without values: whoever runs it says so.
        return


def _class_head(model: Any, spec: ModelSpec) -> nn.Module:
    if spec.class_pooling == "mean":
        head: nn.Module = model.classification_head
        return head
    return MaskPooledClassifier(
        deepest_channels=model.encoder.out_channels[-1],
        decoder_channels=model.segmentation_head[0].in_channels,
        num_classes=len(spec.classes),
        dropout=spec.dropout,
    )


def _shuffle_head(model: Any, spec: ModelSpec, upsampling: int) -> nn.Module:
    if upsampling < SHUFFLE:
        raise CheckpointError(
            f"the decoder of {spec.architecture} already gives part logits at the input's size; part head 'shuffle' "
            "would make more of them than the input has pixels. Use part head 'plain'."
        )
    return shuffle_head(model.segmentation_head[0].in_channels)


def _check_options(architecture: type, spec: ModelSpec) -> None:
    """Refuse decoder options that smp's class would swallow without a word."""
    # What a class does not know it hands to the encoder: smp's own ignore it, timm's (`tu-`) refuse it.
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
