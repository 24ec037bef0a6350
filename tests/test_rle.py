from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from spacecompile.rle import mask_from_rle, rle_from_mask


@pytest.mark.parametrize("size_px", [(1, 1), (7, 5), (96, 128)], ids=str)
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 1])
def test_run_lengths_equal_those_of_pycocotools(size_px: tuple[int, int], share: float) -> None:
    mask_HW = np.random.default_rng(1).random(size_px) < share
    rle = rle_from_mask(mask_HW)
    expected = coco.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    assert (list(rle["size"]), rle["counts"].encode()) == (expected["size"], expected["counts"])
    np.testing.assert_array_equal(mask_from_rle(rle), mask_HW)


def test_long_runs_need_more_than_one_character() -> None:
    mask_HW = np.zeros((1024, 1024), bool)
    mask_HW[300:700, 200:800] = True
    np.testing.assert_array_equal(mask_from_rle(rle_from_mask(mask_HW)), mask_HW)
