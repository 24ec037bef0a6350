"""A run begins with a checkpoint's network, or says in one sentence why that does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spacecompile.contract import SPARK_CLASSES
from spacecompile.errors import CheckpointError, UsageError
from spacecompile.network.checkpoint import load_checkpoint
from spacecompile.train.initial import initial_network


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        pytest.param(
            {"encoder": "resnet18", "encoder_depth": 5, "decoder_options": {}},
            CheckpointError,
            "they are of encoder 'tu-test_resnet', not 'resnet18'; encoder_depth 4, not 5; .*Leave out --recipe",
            id="other encoder",
        ),
        pytest.param({"part_head": "shuffle"}, CheckpointError, "part_head .*not 'shuffle'", id="other head"),
        pytest.param(
            {"decoder_options": {"decoder_channels": [32, 16, 16, 4]}},
            CheckpointError,
            "Leave out --recipe",
            id="width",
        ),
        pytest.param(
            {"classes": SPARK_CLASSES[:-1]}, UsageError, "has 10 classes .*--classes names 9", id="fewer classes"
        ),
        pytest.param(
            {"classes": SPARK_CLASSES[::-1]}, UsageError, "in the order .*Leave out --classes", id="classes mixed up"
        ),
    ],
)
def test_what_does_not_fit_is_said_with_the_flag_to_leave_out(
    still_checkpoint: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        initial_network(still_checkpoint, changes)
    assert "size mismatch" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_names_for_as_many_classes_are_a_new_start(still_checkpoint: Path) -> None:
    names = tuple(f"target_{index}" for index in range(10))
    network = initial_network(still_checkpoint, {"classes": names})
    assert network.spec.classes == names
    assert network.spec.input_size_px == load_checkpoint(still_checkpoint).spec.input_size_px
