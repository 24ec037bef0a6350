"""Graphs that are no sealed ones, in both engines that are measured with them."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import TensorProto, helper

from spacecompile.errors import IntegrityError
from spacecompile.runtime.backends.raw import Feeds, RawGraph, open_raw


def reshaping() -> bytes:
    """A graph that takes the shape to give its six numbers as an input: one that does not fit is known in the run."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["numbers", "shape"], ["reshaped"])],
        "reshape",
        [
            helper.make_tensor_value_info("numbers", TensorProto.FLOAT, (6,)),
            helper.make_tensor_value_info("shape", TensorProto.INT64, (2,)),
        ],
        [helper.make_tensor_value_info("reshaped", TensorProto.FLOAT, ("rows", "columns"))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def opened(engine: str) -> RawGraph:
    if find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    return open_raw(engine, reshaping(), precision="fp32", threads=1, spinning=False)


NUMBERS = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize(
    ("engine", "feeds"),
    [
        ("onnxruntime", {"numbers": NUMBERS, "shape": np.asarray([4, 4])}),
        # OpenVINO (2026.4) reshapes six numbers to sixteen without a word; a name that is not there it does refuse.
        ("openvino", {"figures": NUMBERS}),
    ],
    ids=["onnxruntime", "openvino"],
)
def test_a_run_that_the_engine_gives_up_is_an_error_of_ours(engine: str, feeds: Feeds) -> None:
    graph = opened(engine)
    graph.run({"numbers": NUMBERS, "shape": np.asarray([2, 3])})
    with pytest.raises(IntegrityError, match="failed on the graph") as caught:
        graph.run(feeds)
    assert len(str(caught.value).splitlines()) == 1
    graph.run({"numbers": NUMBERS, "shape": np.asarray([3, 2])})
