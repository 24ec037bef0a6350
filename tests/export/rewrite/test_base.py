"""What holds for every pass: proof, report, and a source network that stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from spacecompile.errors import BuildError
from spacecompile.export.rewrite.base import Pass, cost_of_network
from spacecompile.export.rewrite.proof import PassProofSettings
from spacecompile.network.model import MultiTaskNetwork

SETTINGS = PassProofSettings(input_size_px=(64, 128))


class Scaled(Pass):
    """Multiplies the weights of one head: exact only for a factor of one."""

    name = "scaled_for_test"

    def __init__(self, head: str, factor: float) -> None:
        self.head = head
        self.factor = factor

    def requires(self, _network: MultiTaskNetwork) -> bool:
        return True

    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        with torch.no_grad():
            for parameter in network.get_submodule(self.head).parameters():
                parameter.mul_(self.factor)
        return network


class Crashing(Scaled):
    """Leaves a network that can't run."""

    name = "crashing_for_test"

    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        network.segmentation_head = nn.Conv2d(7, 2, 1).double()
        return network


class Idle(Scaled):
    """Finds nothing to do."""

    name = "idle_for_test"

    def requires(self, _network: MultiTaskNetwork) -> bool:
        return False


@pytest.mark.parametrize(
    ("head", "output"),
    [
        pytest.param("classification_head", "class logits", id="class-head"),
        pytest.param("segmentation_head", "part logits", id="part-head"),
    ],
)
def test_a_pass_that_changes_an_answer_is_refused_by_name(
    reference_network: MultiTaskNetwork, head: str, output: str
) -> None:
    with pytest.raises(BuildError, match=rf"rewrite pass scaled_for_test changed the {output}: relative error 1e-08"):
        Scaled(head, 1.0 + 1e-8).run(reference_network, settings=SETTINGS)


def test_a_pass_within_the_limit_reports_its_error(reference_network: MultiTaskNetwork) -> None:
    _, report = Scaled("segmentation_head", 1.0 + 1e-11).run(reference_network, settings=SETTINGS)
    assert report.name == "scaled_for_test"
    assert report.changed
    assert report.relative_error == pytest.approx(1e-11, rel=1e-3)
    assert report.before == report.after == cost_of_network(reference_network)


def test_a_pass_that_leaves_a_broken_network_is_refused_by_name(reference_network: MultiTaskNetwork) -> None:
    with pytest.raises(BuildError, match="rewrite pass crashing_for_test failed on Segformer with encoder mit_b0"):
        Crashing("segmentation_head", 1.0).run(reference_network, settings=SETTINGS)


def test_a_pass_with_nothing_to_do_returns_the_network_itself_and_says_so(reference_network: MultiTaskNetwork) -> None:
    network, report = Idle("segmentation_head", 2.0).run(reference_network, settings=SETTINGS)
    assert network is reference_network
    assert not report.changed
    assert report.relative_error == 0.0
    assert report.before == report.after


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_source_stays_as_it_is_and_the_result_keeps_its_dtype(
    make_network: Callable[..., MultiTaskNetwork], dtype: torch.dtype
) -> None:
    network = make_network().to(dtype).train()
    before = copy.deepcopy(network.state_dict())
    result, _ = Scaled("segmentation_head", 1.0 + 1e-12).run(network, settings=SETTINGS)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training
    assert not result.training
    assert {parameter.dtype for parameter in result.parameters()} == {dtype}
    assert not any(parameter.requires_grad for parameter in result.parameters())
