"""What importing and loading pull in: the slim runtime stays slim and quick."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

COMPILER = {
    "torch",
    "torchvision",
    "timm",
    "segmentation_models_pytorch",
    "onnx",
    "onnxsim",
    "onnxscript",
    "safetensors",
}


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(name.split('.')[0] for name in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_runtime_imports_neither_numpy_nor_an_engine_nor_a_decoder() -> None:
    modules = modules_after("import spacecompile.runtime")
    assert not modules & (COMPILER | {"numpy", "onnxruntime", "PIL", "rich", "typer"})


def test_public_names_come_without_engine_and_decoder() -> None:
    modules = modules_after("from spacecompile.runtime import *\nload, open_bundle, Session")
    assert not modules & (COMPILER | {"onnxruntime", "PIL", "rich", "typer"})


def test_answering_an_array_needs_no_compiler_and_no_decoder(color_bundle: Path) -> None:
    modules = modules_after(
        f"import spacecompile, numpy\nspacecompile.load({str(color_bundle)!r})(numpy.zeros((96, 128, 3), 'uint8'))"
    )
    assert "onnxruntime" in modules
    assert not modules & (COMPILER | {"PIL", "rich", "typer"})


def test_loading_on_one_engine_leaves_the_other_alone(color_bundle: Path) -> None:
    load = f"import spacecompile\nspacecompile.load({str(color_bundle)!r}, backend={{!r}})"
    assert "openvino" not in modules_after(load.format("onnxruntime"))
    if find_spec("openvino"):
        modules = modules_after(load.format("openvino").replace(")", ", cache=False)"))
        assert "openvino" in modules
        assert not modules & (COMPILER | {"onnxruntime", "PIL", "rich", "typer"})


def test_an_unknown_name_is_an_attribute_error() -> None:
    import spacecompile.runtime

    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = spacecompile.runtime.lod
