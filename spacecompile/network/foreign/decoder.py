"""Which smp architecture a state dict belongs to, and the options that its shapes tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count, takewhile
from typing import Any

from spacecompile.network.foreign.encoders import Shapes

Options = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One smp class.

    Attributes:
        name: Name of the class.
        mark: Name of a weight that only this class has, apart from those before it in `ARCHITECTURES`.
        options: Function from the shapes of its weights to keyword arguments of the class; raises a KeyError where the
            shapes are those of another class.
        unseen: Keyword arguments that change the answers but no weight, with smp's default first and then, where smp
            takes only a few, the others.
    """

    name: str
    mark: str
    options: Callable[[Shapes], Options]
    unseen: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def _first_extent(shapes: Shapes, key: str) -> int:
    return shapes[key][0]


def _norm(shapes: Shapes, block: str) -> Options:
    """The normalisation after a convolution of smp's; batch norm is every class's default."""
    if f"{block}.1.running_mean" in shapes:
        return {}
    if f"{block}.1.weight" in shapes:
        return {"decoder_use_norm": {"type": "instancenorm", "affine": True}}
    return {"decoder_use_norm": "identity"}


def _block_channels(shapes: Shapes, pattern: str) -> list[int]:
    """Output channels of numbered convolutions, as many as there are."""
    keys = takewhile(shapes.__contains__, (pattern.format(index) for index in count()))
    return [_first_extent(shapes, key) for key in keys]


def _unet(shapes: Shapes) -> Options:
    attention = "decoder.blocks.0.attention1.attention.cSE.1.weight" in shapes
    return {
        "decoder_channels": _block_channels(shapes, "decoder.blocks.{}.conv1.0.weight"),
        **({"decoder_attention_type": "scse"} if attention else {}),
        **_norm(shapes, "decoder.blocks.0.conv1"),
    }


def _unet_plus_plus(shapes: Shapes) -> Options:
    attention = "decoder.blocks.x_0_0.attention1.attention.cSE.1.weight" in shapes
    return {
        "decoder_channels": _block_channels(shapes, "decoder.blocks.x_0_{}.conv1.0.weight"),
        **({"decoder_attention_type": "scse"} if attention else {}),
        **_norm(shapes, "decoder.blocks.x_0_0.conv1"),
    }


def _manet(shapes: Shapes) -> Options:
    return {
        "decoder_channels": _block_channels(shapes, "decoder.blocks.{}.conv1.0.weight"),
        "decoder_pab_channels": _first_extent(shapes, "decoder.center.top_conv.weight"),
        **_norm(shapes, "decoder.blocks.0.conv1"),
    }


def _linknet(shapes: Shapes) -> Options:
    return _norm(shapes, "decoder.blocks.0.block.0")


def _fpn(shapes: Shapes) -> Options:
    channels = _first_extent(shapes, "decoder.seg_blocks.0.block.0.block.0.weight")
    merged = shapes["segmentation_head.0.weight"][1]
    return {
        "decoder_pyramid_channels": _first_extent(shapes, "decoder.p5.weight"),
        "decoder_segmentation_channels": channels,
        "decoder_merge_policy": "add" if merged == channels else "cat",
    }


def _segformer(shapes: Shapes) -> Options:
    return {"decoder_segmentation_channels": _first_extent(shapes, "decoder.mlp_stage.0.linear.weight")}


def _deeplab(shapes: Shapes) -> Options:
    return {
        "decoder_channels": _first_extent(shapes, "decoder.conv.weight"),
        "decoder_aspp_separable": "decoder.aspp.convs.1.0.0.weight" in shapes,
    }


def _deeplab_plus(shapes: Shapes) -> Options:
    return {
        "decoder_channels": _first_extent(shapes, "decoder.block2.0.1.weight"),
        "decoder_aspp_separable": "decoder.aspp.0.convs.1.0.0.weight" in shapes,
    }


def _pan(shapes: Shapes) -> Options:
    return {"decoder_channels": _first_extent(shapes, "decoder.fpa.mid.0.conv.weight")}


def _pspnet(shapes: Shapes) -> Options:
    return {"psp_out_channels": _first_extent(shapes, "decoder.conv.0.weight"), **_norm(shapes, "decoder.conv")}


def _upernet(shapes: Shapes) -> Options:
    return {
        "decoder_channels": _first_extent(shapes, "decoder.psp.out_conv.0.weight"),
        **_norm(shapes, "decoder.fusion_block"),
    }


_RESIZE = {"decoder_interpolation": ("nearest",)}
_RATES = {"decoder_atrous_rates": ([12, 24, 36],)}

ARCHITECTURES = (
    Architecture(name="Segformer", mark="decoder.mlp_stage.0.linear.weight", options=_segformer),
    Architecture(name="MAnet", mark="decoder.center.top_conv.weight", options=_manet, unseen=_RESIZE),
    Architecture(
        name="UnetPlusPlus", mark="decoder.blocks.x_0_0.conv1.0.weight", options=_unet_plus_plus, unseen=_RESIZE
    ),
    Architecture(name="Unet", mark="decoder.blocks.0.conv1.0.weight", options=_unet, unseen=_RESIZE),
    Architecture(name="Linknet", mark="decoder.blocks.0.block.0.0.weight", options=_linknet),
    Architecture(name="FPN", mark="decoder.p5.weight", options=_fpn, unseen=_RESIZE),
    Architecture(
        name="DeepLabV3Plus",
        mark="decoder.aspp.0.convs.0.0.weight",
        options=_deeplab_plus,
        unseen={"encoder_output_stride": (16, 8), **_RATES},
    ),
    Architecture(
        name="DeepLabV3",
        mark="decoder.aspp.convs.0.0.weight",
        options=_deeplab,
        unseen={"encoder_output_stride": (8, 16), **_RATES},
    ),
    Architecture(
        name="PAN",
        mark="decoder.fpa.mid.0.conv.weight",
        options=_pan,
        unseen={"encoder_output_stride": (16, 32), "decoder_interpolation": ("bilinear",)},
    ),
    Architecture(name="UPerNet", mark="decoder.psp.out_conv.0.weight", options=_upernet),
    Architecture(name="PSPNet", mark="decoder.psp.blocks.0.pool.1.0.weight", options=_pspnet),
)
"""In the order in which their marks are looked for."""


def architecture_of(shapes: Shapes) -> Architecture | None:
    """The architecture whose decoder has these weights; None for one that is not in the table."""
    return next((architecture for architecture in ARCHITECTURES if architecture.mark in shapes), None)


def architecture_named(name: str) -> Architecture | None:
    """The entry of a name, None for one that is not in the table."""
    return next((architecture for architecture in ARCHITECTURES if architecture.name == name), None)
