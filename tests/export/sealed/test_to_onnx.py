from __future__ import annotations

import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from spacecompile.contract import INPUT_NAME, OUTPUT_NAMES, ModelSpec
from spacecompile.errors import BuildError
from spacecompile.export.engine.legality import illegal_nodes
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.export.sealed.to_onnx import OPSET, export_onnx

SPEC = ModelSpec(input_size_px=(64, 64), frame_size_px=(128, 128))


def test_an_exported_file_is_whole_named_checked_and_portable(
    small_network: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    model_bytes = export_onnx(SealedGraph(small_network, SPEC, "d4"), SPEC.frame_size_px, facts={"variant": "fp32-d4"})
    assert capfd.readouterr().out == ""
    model = onnx.load_from_string(model_bytes)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == [INPUT_NAME]
    assert [value.name for value in model.graph.output] == list(OUTPUT_NAMES)
    assert {fact.key: fact.value for fact in model.metadata_props} == {"variant": "fp32-d4"}
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", OPSET)}
    assert all(weight.data_location == TensorProto.DEFAULT for weight in model.graph.initializer)
    assert illegal_nodes(model) == ()


def test_an_exported_file_tells_nothing_of_the_machine_and_is_the_same_each_time(small_network: nn.Module) -> None:
    first, second = (export_onnx(SealedGraph(small_network, SPEC), SPEC.frame_size_px, facts={}) for _ in range(2))
    assert first == second
    for trace in (b".py", b"site-packages", b"File ", str(torch.__file__).split("/")[1].encode() + b"/"):
        assert trace not in first


class BranchingNetwork(nn.Module):
    """Its path depends on its input, so no fixed graph computes it."""

    def forward(self, input_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        part_logits_NKhw = input_NCHW[:, :2, ::4, ::4]
        if input_NCHW.sum() > 0:
            part_logits_NKhw = part_logits_NKhw * 2
        return input_NCHW.mean(dim=(2, 3)), part_logits_NKhw


def test_a_network_that_can_not_be_traced_is_refused_in_one_line() -> None:
    with pytest.raises(BuildError, match="can't trace this network") as raised:
        export_onnx(SealedGraph(BranchingNetwork(), SPEC), SPEC.frame_size_px, facts={})
    assert "\n" not in str(raised.value)
