"""One candidate, without Ray around it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ray", reason="needs the search extra")

from spacecompile.errors import MissingPartError, OutputError
from spacecompile.metrics import flops_score, params_score
from spacecompile.search.results import Costs
from spacecompile.search.trial import Told, TrialSetup, device_for, run_candidate


def setup_of(data: Path) -> TrialSetup:
    return TrialSetup(data=str(data), device="cpu")


def test_every_epoch_and_the_end_are_told_at_the_rewritten_cost(
    tiny: Any, costs: Costs, search_data: Path, tmp_path: Path
) -> None:
    told: list[Told] = []
    run_candidate(
        tiny("a"), setup_of(search_data), cost=costs.rewritten, output=tmp_path / "run", before=None, tell=told.append
    )
    assert [(one.epoch, one.finished) for one in told] == [(1, False), (2, False), (2, True)]
    assert [len(one.history) for one in told] == [1, 2, 2]
    for one in told:
        assert one.scores is not None
        assert one.s_final == one.scores.s_final
        assert one.scores.s_flops == flops_score(costs.rewritten)
        assert one.scores.s_params == params_score(costs.rewritten)


def test_another_process_goes_on_and_ends_with_the_same_scores(
    tiny: Any, costs: Costs, search_data: Path, tmp_path: Path
) -> None:
    class LostError(Exception):
        pass

    whole: list[Told] = []
    arguments = {"cost": costs.rewritten}
    run_candidate(
        tiny("a"), setup_of(search_data), **arguments, output=tmp_path / "whole", before=None, tell=whole.append
    )
    parts: list[Told] = []

    def lose_machine(told: Told) -> None:
        parts.append(told)
        shutil.copytree(tmp_path / "lost", tmp_path / "kept")
        raise LostError

    with pytest.raises(LostError):
        run_candidate(
            tiny("a"), setup_of(search_data), **arguments, output=tmp_path / "lost", before=None, tell=lose_machine
        )
    run_candidate(
        tiny("a"), setup_of(search_data), **arguments, output=tmp_path / "kept", before=parts[-1], tell=parts.append
    )
    assert [one.scores for one in parts] == [one.scores for one in whole]
    assert parts[-1].history == whole[-1].history


def test_a_divergence_is_told_and_not_raised(tiny: Any, costs: Costs, search_data: Path, tmp_path: Path) -> None:
    told: list[Told] = []
    run_candidate(
        tiny("a", lr=1e30),
        setup_of(search_data),
        cost=costs.rewritten,
        output=tmp_path / "run",
        before=None,
        tell=told.append,
    )
    assert (told[-1].finished, told[-1].s_final) == (True, 0.0)
    assert "diverged" in told[-1].diverged


def test_an_error_that_every_attempt_would_meet_is_told(
    tiny: Any, costs: Costs, search_data: Path, tmp_path: Path
) -> None:
    told: list[Told] = []
    run_candidate(
        tiny("a", classes=["Rosetta", "Philae"]),
        setup_of(search_data),
        cost=costs.rewritten,
        output=tmp_path / "run",
        before=None,
        tell=told.append,
    )
    assert told[-1].finished
    assert "classes" in told[-1].failed


def test_an_attempt_after_the_end_only_tells_it_again(tiny: Any, costs: Costs, tmp_path: Path) -> None:
    end, told = Told(epoch=2, finished=True, s_final=0.5), []
    run_candidate(
        tiny("a"), TrialSetup(data="nowhere"), cost=costs.rewritten, output=tmp_path, before=end, tell=told.append
    )
    assert told == [end]


def test_a_machine_at_fault_is_raised_so_that_another_attempt_is_made(
    tiny: Any, costs: Costs, search_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    told: list[Told] = []
    with pytest.raises(OutputError):
        run_candidate(
            tiny("a"),
            setup_of(search_data),
            cost=costs.rewritten,
            output=tmp_path / "file" / "run",
            before=None,
            tell=told.append,
        )
    assert told == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_raised_too(tiny: Any, costs: Costs, search_data: Path, tmp_path: Path) -> None:
    setup = TrialSetup(data=str(search_data), device="cuda")
    with pytest.raises(MissingPartError):
        run_candidate(tiny("a"), setup, cost=costs.rewritten, output=tmp_path / "run", before=None, tell=lambda _: None)


@pytest.mark.parametrize(
    ("device", "gpus", "chosen"),
    [("auto", 0, "cpu"), ("cpu", 0, "cpu"), ("auto", 0.5, "auto"), ("cuda", 1, "cuda"), ("cpu", 2, "cpu")],
)
def test_a_candidate_without_a_gpu_of_its_own_takes_none(device: str, gpus: float, chosen: str) -> None:
    assert device_for(device, gpus) == chosen
