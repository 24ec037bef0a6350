"""Facts for the manifest: which tools shaped the bytes, and what the user must know of licences."""

from __future__ import annotations

from importlib.metadata import version

from spacecompile._version import __version__
from spacecompile.contract import ModelSpec

_TOOLS = (
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnxsim",
    "pillow",
    "segmentation-models-pytorch",
    "timm",
    "torch",
)

_SMP_LICENCE = "Decoder and heads follow segmentation_models_pytorch, MIT licence."
_MIT_ENCODER_LICENCE = (
    "The MiT encoder's code in segmentation_models_pytorch comes from SegFormer under the NVIDIA Source Code License: "
    "non-commercial use only, for research or evaluation. Clear commercial use with NVIDIA."
)
_TIMM_LICENCE = (
    "The encoder comes from timm, Apache-2.0 for most models; pretrained weights may carry other terms, see timm's "
    "model card."
)
_ENCODER_LICENCE = (
    "The encoder's code comes from segmentation_models_pytorch; look up its origin and the terms of its pretrained "
    "weights there."
)


def tool_versions() -> dict[str, str]:
    """Version of every package that shapes the bundle's bytes, by name."""
    return {"spacecompile": __version__, **{tool: version(tool) for tool in _TOOLS}}


def licences_of(spec: ModelSpec) -> tuple[str, ...]:
    """What the user must know of the licences of the code that the network comes from."""
    # smp's own names: `mit_b0` is a Mix Transformer, which has nothing to do with the MIT licence.
    if spec.encoder.startswith("mit_b"):
        encoder_licence = _MIT_ENCODER_LICENCE
    elif spec.encoder.startswith(("tu-", "timm-")):
        encoder_licence = _TIMM_LICENCE
    else:
        encoder_licence = _ENCODER_LICENCE
    return (encoder_licence, _SMP_LICENCE)
