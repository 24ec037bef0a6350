from __future__ import annotations

import io
import math
import warnings

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from spacecompile.contract import Tta
from spacecompile.network.views import (
    d4_views,
    merged_class_probs,
    merged_part_logits,
    undone,
    view_disagreement,
)

GENERATOR_SEED = 11


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(GENERATOR_SEED))


def test_the_eight_views_are_all_different_and_begin_with_the_picture() -> None:
    views = d4_views(random(1, 3, 4, 4))
    assert torch.equal(views[0], random(1, 3, 4, 4)[0])
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8


def test_the_views_are_the_symmetries_of_the_square() -> None:
    picture = random(1, 1, 4, 4)
    turned = [torch.rot90(flipped, turns, (2, 3)) for flipped in (picture, picture.flip(3)) for turns in range(4)]
    expected = {tuple(view.flatten().tolist()) for view in turned}
    assert {tuple(view.flatten().tolist()) for view in d4_views(picture)} == expected


def test_undoing_gives_every_view_the_pose_of_the_picture() -> None:
    picture = random(1, 2, 6, 6)
    assert torch.equal(undone(d4_views(picture)), picture.expand(8, -1, -1, -1))


def test_a_network_that_turns_with_its_input_answers_alike_on_all_views() -> None:
    # Pooling commutes with every symmetry of the square.
    picture = random(1, 2, 8, 8)
    pooled = undone(torch.nn.functional.avg_pool2d(d4_views(picture), 2))
    torch.testing.assert_close(pooled, torch.nn.functional.avg_pool2d(picture, 2).expand(8, -1, -1, -1))


@pytest.mark.parametrize("largest", [1.0, 8.0, 25.0])
def test_d4_gives_the_logit_of_the_mean_probability(largest: float) -> None:
    logits = largest * random(8, 2, 5, 5).clamp(-1, 1)
    mean_prob = torch.sigmoid(logits.double()).mean(0, keepdim=True)
    expected = torch.log(mean_prob) - torch.log(torch.sigmoid(-logits.double()).mean(0, keepdim=True))
    torch.testing.assert_close(merged_part_logits(logits, "d4"), expected.float(), rtol=1e-5, atol=1e-5)


def test_saturated_views_merge_to_a_finite_logit() -> None:
    merged = merged_part_logits(torch.full((8, 2, 3, 3), 500.0), "d4")
    assert torch.isfinite(merged).all()
    assert (merged > 20).all()


def test_the_median_ignores_three_bad_views_of_eight() -> None:
    logits = torch.full((8, 1, 1, 1), 2.0)
    logits[:3] = -1000.0
    assert merged_part_logits(logits, "d4-median").item() == 2.0
    assert merged_part_logits(logits, "d4").item() < 1.0


def test_the_median_of_eight_is_the_mean_of_the_two_middle_values() -> None:
    logits = torch.tensor([5.0, -3.0, 1.0, 9.0, 0.0, 2.0, -7.0, 4.0]).reshape(8, 1, 1, 1)
    assert merged_part_logits(logits, "d4-median").item() == pytest.approx(1.5)


@pytest.mark.parametrize("tta", ["none", "d4", "d4-median"])
def test_class_probabilities_sum_to_one(tta: Tta) -> None:
    probs = merged_class_probs(3 * random(1 if tta == "none" else 8, 10), tta)
    assert probs.shape == (10,)
    assert probs.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert (probs > 0).all()


def test_one_view_that_is_sure_of_another_class_moves_the_mean_but_not_the_median() -> None:
    logits = torch.zeros(8, 3)
    logits[:, 0] = 4.0
    logits[7] = torch.tensor([-50.0, 50.0, -50.0])
    alone = torch.softmax(logits[0], dim=0)
    torch.testing.assert_close(merged_class_probs(logits, "d4-median"), alone)
    assert merged_class_probs(logits, "d4")[0] < alone[0] - 0.1


def test_disagreement_counts_a_pixel_once_however_many_parts_differ() -> None:
    threshold = math.log(0.6 / 0.4)
    logits = torch.full((8, 2, 4, 4), -1.0)
    logits[3, :, 0, 0] = 1.0
    logits[5, 1, 2, 2] = 1.0
    logits[:, 0, 3, 3] = 1.0  # all views agree
    logits[2, 0, 1, 1] = threshold - 0.1  # below the threshold like the others
    given = view_disagreement(logits, torch.full((1, 2, 1, 1), threshold))
    assert given.item() == pytest.approx(2 / 16)


def test_certain_views_stay_finite_in_onnx_runtime() -> None:
    class Merge(nn.Module):
        def forward(self, part_logits_NKhw: Tensor) -> Tensor:
            return merged_part_logits(part_logits_NKhw, "d4")

    logits = torch.linspace(-60, 60, 2 * 4 * 4).reshape(1, 2, 4, 4).repeat(8, 1, 1, 1)
    file = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter warns about its own internals.
        warnings.simplefilter("ignore")
        torch.onnx.export(Merge(), (logits,), dynamo=True, verbose=False).save(file)
    session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {session.get_inputs()[0].name: logits.numpy()})
    assert np.isfinite(given).all()
    np.testing.assert_allclose(given, merged_part_logits(logits, "d4").numpy(), atol=1e-3)
