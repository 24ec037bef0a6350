"""The float64 comparison that every pass must survive."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from spacecompile.export.rewrite.proof import PassProofSettings, proof_input, relative_errors

SETTINGS = PassProofSettings(input_size_px=(64, 128))


class Heads(nn.Module):
    """Two answers that are scaled copies of the input."""

    def __init__(self, *, class_scale: float = 1.0, part_scale: float = 1.0, rows: int = 64) -> None:
        super().__init__()
        self.class_scale = nn.Parameter(torch.tensor(class_scale, dtype=torch.float64))
        self.part_scale = nn.Parameter(torch.tensor(part_scale, dtype=torch.float64))
        self.rows = rows

    def forward(self, input_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        return input_NCHW.mean(dim=(2, 3)) * self.class_scale, input_NCHW[:, :2, : self.rows] * self.part_scale


@pytest.mark.parametrize(
    ("changed", "class_error", "part_error"),
    [
        pytest.param({}, 0.0, 0.0, id="nothing"),
        pytest.param({"class_scale": 1.0 + 1e-6}, 1e-6, 0.0, id="class-head"),
        pytest.param({"part_scale": 1.0 - 1e-3}, 0.0, 1e-3, id="part-head"),
        pytest.param({"part_scale": float("nan")}, 0.0, float("inf"), id="not-a-number"),
        pytest.param({"class_scale": float("inf")}, float("inf"), 0.0, id="infinity"),
        pytest.param({"rows": 32}, 0.0, float("inf"), id="shape"),
    ],
)
def test_the_error_of_each_head_is_relative_to_its_largest_value(
    changed: dict[str, float], class_error: float, part_error: float
) -> None:
    errors = relative_errors(Heads(), Heads(**changed), SETTINGS)
    assert errors == pytest.approx({"class logits": class_error, "part logits": part_error}, rel=1e-6)


def test_the_error_of_a_head_that_was_zero_is_absolute() -> None:
    errors = relative_errors(Heads(class_scale=0.0), Heads(class_scale=0.5), SETTINGS)
    expected = 0.5 * float(proof_input(Heads(), SETTINGS).mean(dim=(2, 3)).abs().max())
    assert errors["class logits"] == pytest.approx(expected)


def test_the_input_is_seeded_float64_without_symmetry() -> None:
    first, second = proof_input(Heads(), SETTINGS), proof_input(Heads(), SETTINGS)
    assert first.shape == (2, 3, 64, 128)
    assert first.dtype == torch.float64
    assert torch.equal(first, second)
    assert not torch.equal(first, proof_input(Heads(), PassProofSettings(input_size_px=(64, 128), seed=1)))
    assert not torch.equal(first[0], first[1])


def test_comparing_changes_neither_network() -> None:
    network = Heads(class_scale=2.0)
    before = copy.deepcopy(network.state_dict())
    relative_errors(network, network, SETTINGS)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
