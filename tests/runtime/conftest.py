"""A sealed graph small enough to build by hand, and bundles of such graphs.

The graph reads red pixels as body and blue ones as panel, so that every test knows the right answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from spacecompile.contract import (
    FP32_TOLERANCE,
    HEALTH_SIGNALS,
    SCHEMA_VERSION,
    Cost,
    FileFact,
    Manifest,
    ModelSpec,
    Precision,
    Tta,
    Variant,
)

CLASSES = ("Red", "Green", "Blue")
FRAME_SIZE_PX = (96, 128)

GraphMaker = Callable[..., bytes]
BundleMaker = Callable[..., Path]


def color_graph(
    *,
    frame_size_px: tuple[int, int] = FRAME_SIZE_PX,
    offset: float = 0.0,
    probs_dtype: int = TensorProto.FLOAT,
    outputs: tuple[str, ...] = ("class_probs", "parts", "box_xyxy", "health"),
) -> bytes:
    """ONNX bytes of a graph that answers by colour.

    Args:
        frame_size_px: (height, width).
        offset: Added to the box; NaN makes a graph that puts out NaN.
        probs_dtype: ONNX type of the class probabilities.
        outputs: Which of its outputs the graph declares, in this order.
    """
    height, width = frame_size_px
    constants = {
        "zero": np.int64(0), "half": np.float32(127), "two": np.float32(2), "hw": np.array([0, 1], np.int64),
        "rows": np.array([0], np.int64), "tenth": np.float32(0.1), "one": np.array([1.0], np.float32),
        "x": np.arange(1, width + 1, dtype=np.float32), "x_back": np.arange(width, 0, -1, dtype=np.float32),
        "y": np.arange(1, height + 1, dtype=np.float32), "y_back": np.arange(height, 0, -1, dtype=np.float32),
        "w": np.array([width], np.float32), "h": np.array([height], np.float32),
        "red": np.int64(0), "blue": np.int64(2), "offset": np.float32(offset), "none": np.array([0.0], np.float32),
        "shape1": np.array([1], np.int64),
    }  # fmt: skip
    lines = """
        f = Cast frame
        r = Gather f red axis=2 | b = Gather f blue axis=2
        body? = Greater r half | panel? = Greater b half
        body = Cast body? | panel = Cast panel? | panel2 = Mul panel two
        sum = Add body panel2 | any = Max body panel
        cols = ReduceMax any rows keepdims=0 | lines = ReduceMax any shape1 keepdims=0
        x1s = Mul cols x | x0s = Mul cols x_back | y1s = Mul lines y | y0s = Mul lines y_back
        x1 = ReduceMax x1s rows keepdims=1 | x0b = ReduceMax x0s rows keepdims=1
        y1 = ReduceMax y1s rows keepdims=1 | y0b = ReduceMax y0s rows keepdims=1
        x0w = Sub w x0b | y0h = Sub h y0b | some = Sign x1
        x0 = Mul x0w some | y0 = Mul y0h some
        box = Concat x0 y0 x1 y1 axis=0
        box_xyxy = Add box offset
        means = ReduceMean f hw keepdims=0 | logits = Mul means tenth | probs = Softmax logits
        mean_s = ReduceMean f keepdims=0 | max_s = ReduceMax f keepdims=0
        body_s = ReduceSum body keepdims=0 | panel_s = ReduceSum panel keepdims=0
        mean1 = Reshape mean_s shape1 | max1 = Reshape max_s shape1
        body1 = Reshape body_s shape1 | panel1 = Reshape panel_s shape1
        health = Concat mean1 max1 body1 panel1 one none axis=0
    """
    nodes = [
        helper.make_node("Cast", ["sum"], ["parts"], to=TensorProto.UINT8),
        helper.make_node("Cast", ["probs"], ["class_probs"], to=probs_dtype),
    ]
    parsed = []
    for line in lines.replace("|", "\n").split("\n"):
        if "=" in line:
            name, call = (part.strip() for part in line.split("=", 1))
            op, *words = call.split()
            attributes = {key: int(value) for key, value in (word.split("=") for word in words if "=" in word)}
            if op == "Cast":
                attributes["to"] = TensorProto.FLOAT
            inputs = [word for word in words if "=" not in word]
            parsed.append(helper.make_node(op, inputs, [name], **attributes))
    shapes = {
        "class_probs": (probs_dtype, [3]),
        "parts": (TensorProto.UINT8, [height, width]),
        "box_xyxy": (TensorProto.FLOAT, [4]),
        "health": (TensorProto.FLOAT, [len(HEALTH_SIGNALS)]),
    }
    graph = helper.make_graph(
        [*parsed, *nodes],
        "color",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [height, width, 3])],
        [helper.make_tensor_value_info(name, *shapes[name]) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def write_bundle(
    root: Path,
    graphs: dict[tuple[Precision, Tta], bytes] | None = None,
    *,
    frame_size_px: tuple[int, int] = FRAME_SIZE_PX,
    classes: tuple[str, ...] = CLASSES,
    further_files: dict[str, bytes] | None = None,
    certified: tuple[str, ...] = ("onnxruntime",),
) -> Path:
    """A bundle folder of given graphs and further files, with an honest manifest."""
    graphs = graphs or {("fp32", "none"): color_graph(frame_size_px=frame_size_px)}
    variants, files = [], {}
    for (precision, tta), content in graphs.items():
        name = precision if tta == "none" else f"{precision}-{tta}"
        path = f"variants/{name}/model.onnx"
        (root / path).parent.mkdir(parents=True)
        (root / path).write_bytes(content)
        files[path] = FileFact(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        variants.append(
            Variant(
                name=name,
                precision=precision,
                tta=tta,
                path=path,
                opset=20,
                tolerance=FP32_TOLERANCE,
                certified=certified,
            )
        )
    for path, content in ({"reports/parity.json": b'{"frames": 0}'} | (further_files or {})).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        files[path] = FileFact(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    cost = Cost(params=1, macs_fvcore=1, macs_torch=1)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name="color",
        spec=ModelSpec(classes=classes, input_size_px=(64, 64), frame_size_px=frame_size_px),
        health_signals=HEALTH_SIGNALS,
        variants=tuple(variants),
        files=files,
        source_sha256="0" * 64,
        source_format="by hand",
        training={},
        rewrites=(),
        cost_source=cost,
        cost=cost,
        tools={},
        licences=(),
    )
    (root / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return root


@pytest.fixture(scope="session")
def make_graph() -> GraphMaker:
    """`color_graph`."""
    return color_graph


@pytest.fixture(scope="session")
def make_bundle() -> BundleMaker:
    """`write_bundle`."""
    return write_bundle


@pytest.fixture
def color_bundle(tmp_path: Path) -> Path:
    """A bundle of one color graph, fresh for a test that damages it."""
    return write_bundle(tmp_path / "color.spacepkg")


@pytest.fixture
def edit_manifest() -> Callable[..., None]:
    """Change fields of a bundle's manifest as a tamperer would."""

    def edit(bundle: Path, change: Callable[[dict[str, object]], None]) -> None:
        path = bundle / "manifest.json"
        content = json.loads(path.read_bytes())
        change(content)
        path.write_text(json.dumps(content))

    return edit


@pytest.fixture
def craft_frame() -> NDArray[np.uint8]:
    """A red body at rows 20..40, columns 30..50 and a blue panel to its right up to column 90."""
    frame_HWC = np.zeros((*FRAME_SIZE_PX, 3), np.uint8)
    frame_HWC[20:40, 30:50, 0] = 255
    frame_HWC[25:35, 50:90, 2] = 250
    return frame_HWC
