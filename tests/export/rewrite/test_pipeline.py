"""All passes together: golden costs, an untouched source, and a result that exports."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from spacecompile.contract import Cost, PassReport
from spacecompile.errors import BuildError
from spacecompile.export.rewrite import PASSES, rewrite_network
from spacecompile.export.rewrite.base import Pass
from spacecompile.export.rewrite.dropout import RemoveDropout
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.runtime.backends.openvino_import import openvino_core

pytestmark = pytest.mark.xdist_group("pipeline")  # what the module's tests share is made once


class Wrong(Pass):
    """Claims to be exact and is not."""

    name = "wrong_for_test"

    def requires(self, _network: MultiTaskNetwork) -> bool:
        return True

    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        with torch.no_grad():
            next(network.decoder.parameters()).mul_(1.01)
        return network


class Interrupted(Wrong):
    """The user stops it."""

    name = "interrupted_for_test"

    def apply(self, _network: MultiTaskNetwork) -> MultiTaskNetwork:
        raise KeyboardInterrupt


def _input(size_px: tuple[int, int] = (64, 96)) -> torch.Tensor:
    return torch.randn(2, 3, *size_px, generator=torch.Generator().manual_seed(5))


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    source: MultiTaskNetwork
    source_state: dict[str, torch.Tensor]
    network: MultiTaskNetwork
    reports: tuple[PassReport, ...]


@pytest.fixture(scope="module")
def reference(make_network: Callable[..., MultiTaskNetwork]) -> Rewritten:
    """The reference network at its own input size, rewritten once for all tests of this module."""
    source = make_network(input_size_px=(512, 512))
    source_state = copy.deepcopy(source.state_dict())
    network, reports = rewrite_network(source)
    return Rewritten(source=source, source_state=source_state, network=network, reports=reports)


def test_the_reference_network_meets_its_golden_costs(reference: Rewritten) -> None:
    source = Cost(params=3_454_060, macs_fvcore=4_482_664_960, macs_torch=4_411_623_936)
    folded = Cost(params=3_453_932, macs_fvcore=4_478_470_656, macs_torch=4_411_623_936)
    collapsed = Cost(params=3_387_884, macs_fvcore=3_396_340_224, macs_torch=3_337_882_112)
    single_head = Cost(params=3_383_660, macs_fvcore=3_329_231_360, macs_torch=3_270_773_248)
    plain_norms = Cost(params=3_378_284, macs_fvcore=3_326_020_096, macs_torch=3_270_773_248)
    assert [(report.name, report.changed, report.before, report.after) for report in reference.reports] == [
        ("remove_dropout", True, source, source),
        ("remove_unused", False, source, source),
        ("reparameterise", False, source, source),
        ("fold_batchnorm", True, source, folded),
        ("collapse_segformer_head", True, folded, collapsed),
        ("fold_part_threshold", False, collapsed, collapsed),
        ("move_pointwise_first", False, collapsed, collapsed),
        ("lay_out_mit", True, collapsed, collapsed),
        ("fold_attention_scale", True, collapsed, collapsed),
        ("fold_single_head", True, collapsed, single_head),
        ("fold_norm_affine", True, single_head, plain_norms),
        ("fold_input_scale", False, plain_norms, plain_norms),
    ]
    assert max(report.relative_error for report in reference.reports) <= 1e-9


def test_passes_run_in_the_order_of_the_data(reference: Rewritten) -> None:
    assert [report.name for report in reference.reports] == [step.name for step in PASSES]


def test_the_source_stays_as_it_is(reference: Rewritten) -> None:
    state = reference.source.state_dict()
    assert list(state) == list(reference.source_state)
    assert all(torch.equal(value, reference.source_state[key]) for key, value in state.items())
    assert reference.network is not reference.source
    assert reference.network.spec == reference.source.spec


def test_the_result_is_float32_frozen_and_differs_by_rounding_only(reference: Rewritten) -> None:
    parameters = list(reference.network.parameters())
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in parameters)
    assert not reference.network.training
    with torch.no_grad():
        for expected, seen in zip(reference.source(_input()), reference.network(_input()), strict=True):
            assert float((seen - expected).abs().max()) <= 5e-6


@pytest.fixture(scope="module")
def model_bytes(reference: Rewritten) -> bytes:
    program = torch.onnx.export(reference.network, (_input(),), dynamo=True, input_names=["input"], verbose=False)
    assert program is not None
    model_bytes: bytes = program.model_proto.SerializeToString()
    return model_bytes


def _run_in_onnx_runtime(model_bytes: bytes) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model_bytes, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"input": _input().numpy()}))


def _run_in_openvino(model_bytes: bytes) -> list[NDArray[np.float32]]:
    pytest.importorskip("openvino")
    core = openvino_core()
    compiled = core.compile_model(core.read_model(model_bytes), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [np.array(answer) for answer in compiled([_input().numpy()]).values()]


@pytest.mark.parametrize("run", [_run_in_onnx_runtime, _run_in_openvino])
def test_the_result_exports_and_runtimes_agree(
    reference: Rewritten, model_bytes: bytes, run: Callable[[bytes], list[NDArray[np.float32]]]
) -> None:
    with torch.no_grad():
        for expected, seen in zip(reference.source(_input()), run(model_bytes), strict=True):
            np.testing.assert_allclose(seen, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        pytest.param(
            {"encoder": "tu-hgnetv2_b0"},
            {"remove_dropout", "fold_batchnorm", "collapse_segformer_head"},
            id="segformer-timm-hgnet",
        ),
        pytest.param(
            {"architecture": "Unet", "decoder_options": {}},
            {
                "remove_dropout",
                "fold_batchnorm",
                "lay_out_mit",
                "fold_attention_scale",
                "fold_single_head",
                "fold_norm_affine",
            },
            id="unet-mit",
        ),
    ],
)
def test_other_networks_keep_their_answers_and_say_what_changed(
    make_network: Callable[..., MultiTaskNetwork], fields: dict[str, object], changed: set[str]
) -> None:
    network = make_network(**fields)
    rewritten, reports = rewrite_network(network)
    assert {report.name for report in reports if report.changed} == changed
    assert max(report.relative_error for report in reports) <= 1e-9
    for report in reports:
        assert report.after.params <= report.before.params
        assert report.after.macs_fvcore <= report.before.macs_fvcore
    with torch.no_grad():
        for expected, seen in zip(network(_input()), rewritten(_input()), strict=True):
            assert float((seen - expected).abs().max()) <= 2e-5 * float(expected.abs().max())


def test_a_wrong_pass_stops_the_rewrite_by_name(reference_network: MultiTaskNetwork) -> None:
    with pytest.raises(BuildError, match="rewrite pass wrong_for_test changed the part logits"):
        rewrite_network(reference_network, passes=(Wrong(),))


def test_a_wrong_pass_can_be_skipped_with_a_warning_that_names_it(
    reference_network: MultiTaskNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        rewritten, (report,) = rewrite_network(reference_network, passes=(Wrong(),), skip_unproven=True)
    assert "rewrite pass wrong_for_test is skipped: it changed the part logits: relative error" in caplog.text
    assert not report.changed
    assert report.skipped.startswith("changed the part logits: relative error ")
    assert report.after == report.before
    for key, value in rewritten.state_dict().items():
        assert torch.equal(value, reference_network.state_dict()[key])


def test_an_interrupt_inside_a_pass_is_not_swallowed(reference_network: MultiTaskNetwork) -> None:
    with pytest.raises(KeyboardInterrupt):
        rewrite_network(reference_network, passes=(Interrupted(),), skip_unproven=True)


def test_a_skipped_pass_does_not_keep_the_next_from_running(reference_network: MultiTaskNetwork) -> None:
    _, reports = rewrite_network(reference_network, passes=(Wrong(), RemoveDropout()), skip_unproven=True)
    assert [bool(report.skipped) for report in reports] == [True, False]
    assert [report.changed for report in reports] == [False, True]


def test_progress_runs_from_zero_to_the_number_of_passes(reference_network: MultiTaskNetwork) -> None:
    seen: list[tuple[str, int, int]] = []
    rewrite_network(reference_network, passes=(), progress=lambda *step: seen.append(step))
    assert seen == [("rewrite", 0, 0)]
    rewrite_network(reference_network, passes=PASSES[:1], progress=lambda *step: seen.append(step))
    assert seen[1:] == [("rewrite", 0, 1), ("rewrite", 1, 1)]
