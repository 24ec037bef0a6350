"""What a search writes, and what it refuses before it begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("ray", reason="needs the search extra")

from spacecompile.errors import BuildError, DataError, OutputError, UsageError
from spacecompile.machine.environment import read_environment
from spacecompile.metrics import ScoreMeter
from spacecompile.search.results import Circumstances, Costs, Outcome, SearchResult, ranked
from spacecompile.search.study import SearchJob, prepare, require_best, write_result
from spacecompile.search.trial import TrialSetup
from spacecompile.search.tuning import TuneOptions
from spacecompile.train.named_recipes import recipe_named


def outcome_of(candidate: Any, costs: Costs, overlap_px: int) -> Outcome:
    """With masks that share `overlap_px` of four rows."""
    meter, truth_HW, answer_HW = ScoreMeter(), np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    truth_HW[:] = 1
    answer_HW[:overlap_px] = 1
    meter.add(0, 0, answer_HW, truth_HW, (0, 0, 4, overlap_px), (0, 0, 4, 4))
    return Outcome(candidate=candidate, status="done", epochs=2, scores=meter.scores(costs.rewritten), costs=costs)


@pytest.fixture
def result(tiny: Any, costs: Costs) -> SearchResult:
    heavy = msgspec.structs.replace(costs.rewritten, params=9_000_000)
    heavy_costs = Costs(source=heavy, rewritten=heavy, size_px=(96, 128))
    outcomes = ranked(
        (
            Outcome(candidate=tiny("wild"), status="diverged", reason="training diverged <in> epoch 1"),
            outcome_of(tiny("light"), costs, 2),
            outcome_of(tiny("heavy"), heavy_costs, 4),
        )
    )
    return SearchResult(
        kind="architectures",
        best=outcomes[0].candidate,
        circumstances=Circumstances(
            command="spacecompile search architectures",
            frames={"train": 24, "val": 8},
            input_size_px=(64, 64),
            charged_size_px=(64, 64),
            early_stopping=False,
            elapsed_s=1.0,
            environment=read_environment(threads=1, load_average_start=None),
        ),
        outcomes=outcomes,
        frontier=("light", "heavy"),
    )


def job_of(
    tmp_path: Path, data: Path, *, resume: bool = False, force: bool = False, limit_frames: int = 0
) -> SearchJob:
    return SearchJob(
        output=tmp_path / "out",
        setup=TrialSetup(data=str(data), limit_frames=limit_frames),
        options=TuneOptions(folder=tmp_path / "out" / "tune", resume=resume),
        force=force,
    )


def test_outcomes_are_ranked_by_the_final_score_and_failures_come_last(result: SearchResult) -> None:
    assert [one.candidate.name for one in result.outcomes] == ["heavy", "light", "wild"]
    assert [one.s_final >= 0 for one in result.outcomes] == [True, True, False]


def test_the_files_are_a_result_a_recipe_a_picture_and_an_offline_page(
    result: SearchResult, tmp_path: Path, search_data: Path
) -> None:
    job = job_of(tmp_path, search_data)
    write_result(job, result)
    assert msgspec.json.decode((job.output / "search.json").read_bytes(), type=SearchResult) == result
    assert recipe_named(str(job.output / "best.json")) == result.best
    with Image.open(job.output / "pareto.png") as picture:
        assert picture.width > 1000
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10
    page = (job.output / "index.html").read_text()
    for text in (
        "light",
        "heavy",
        "Pareto frontier",
        "training diverged &lt;in&gt; epoch 1",
        "1.000",
        "9.000",
        "96&thinsp;\N{MULTIPLICATION SIGN}&thinsp;128",
    ):
        assert text in page
    for outside in ("http:", "https:", "<script", "url(//"):
        assert outside not in page


@pytest.mark.parametrize(
    ("first", "then", "seen"),
    [
        pytest.param({}, {}, "--resume, begin anew with --force", id="already there"),
        pytest.param(None, {"resume": True}, "no search to resume", id="nothing to resume"),
        pytest.param({}, {"resume": True, "limit_frames": 9}, "holds another search", id="other frames"),
    ],
)
def test_a_folder_is_never_mistaken(
    first: dict[str, Any] | None, then: dict[str, Any], seen: str, tiny: Any, tmp_path: Path, search_data: Path
) -> None:
    if first is not None:
        prepare(job_of(tmp_path, search_data, **first), (tiny("a"),))
    with pytest.raises(OutputError, match=seen):
        prepare(job_of(tmp_path, search_data, **then), (tiny("a"),))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"at_once": 3, "ray_address": "10.0.0.1:6379"}, "", id="another cluster"),
        pytest.param({"gpus": 0.5}, "--gpus", id="other GPUs"),
        pytest.param({"early_stopping": False}, "--early-stopping", id="no early stopping"),
        pytest.param({"grace_epochs": 2, "gpus": 2.0}, "--gpus, --grace-epochs", id="two settings"),
    ],
)
def test_a_search_is_resumed_with_the_settings_that_its_candidates_were_run_with(
    changes: dict[str, Any], named: str, tiny: Any, tmp_path: Path, search_data: Path
) -> None:
    job = job_of(tmp_path, search_data)
    first = replace(job, options=replace(job.options, ray_address="auto"))
    prepare(first, (tiny("a"),))
    resumed = replace(first, options=replace(first.options, resume=True, **changes))
    if named:
        with pytest.raises(OutputError, match=rf"it differs in {named}\. Give the flags"):
            prepare(resumed, (tiny("a"),))
    else:
        prepare(resumed, (tiny("a"),))


@pytest.mark.parametrize("content", [b"", b"[1]"], ids=["empty", "no settings"])
def test_damaged_settings_are_another_search(content: bytes, tiny: Any, tmp_path: Path, search_data: Path) -> None:
    prepare(job_of(tmp_path, search_data), (tiny("a"),))
    (tmp_path / "out" / "settings.json").write_bytes(content)
    with pytest.raises(OutputError, match="holds another search"):
        prepare(job_of(tmp_path, search_data, resume=True), (tiny("a"),))


def test_force_begins_anew_and_keeps_the_counts(tiny: Any, tmp_path: Path, search_data: Path) -> None:
    prepare(job_of(tmp_path, search_data), (tiny("a"),))
    output = tmp_path / "out"
    (output / "tune").mkdir()
    (output / "tune" / "state").write_text("old")
    (output / "search.json").write_text("old")
    (output / "costs.json").write_text("{}")
    prepare(job_of(tmp_path, search_data, force=True), (tiny("b"),))
    assert sorted(path.name for path in output.iterdir()) == ["costs.json", "settings.json"]
    prepare(job_of(tmp_path, search_data, resume=True), (tiny("b"),))


def test_data_that_is_not_there_is_refused_before_a_folder_is_made(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        prepare(job_of(tmp_path, tmp_path / "nowhere"), (tiny("a"),))
    assert not (tmp_path / "out").exists()


def test_a_search_without_one_usable_network_fails_with_the_reasons(result: SearchResult) -> None:
    with pytest.raises(BuildError, match=r"wild: training diverged"):
        require_best(result.outcomes[-1:])
    assert require_best(result.outcomes).candidate.name == "heavy"


def test_other_phases_are_another_search(tiny: Any, tmp_path: Path, search_data: Path) -> None:
    prepare(job_of(tmp_path, search_data), (tiny("a"),), phases=("learning-rate", "refinement"))
    resumed = job_of(tmp_path, search_data, resume=True)
    prepare(resumed, (tiny("a"),), phases=("learning-rate", "refinement"))
    for others in (("refinement",), ("refinement", "learning-rate")):
        with pytest.raises(OutputError, match="holds another search"):
            prepare(resumed, (tiny("a"),), phases=others)


@pytest.mark.parametrize(
    ("setup", "options", "seen"),
    [
        pytest.param({"device": "foo"}, {}, "device is 'foo'", id="no device"),
        pytest.param({"device": "cuda:1"}, {"gpus": 1.0}, "Ray chooses which GPU", id="a certain GPU"),
        pytest.param({"device": "cuda"}, {}, "--device cuda needs a GPU per candidate", id="CUDA without a GPU"),
        pytest.param({}, {"gpus": 1.5}, "whole number", id="one GPU and a half"),
        pytest.param({}, {"gpus": float(torch.cuda.device_count() + 1)}, "this machine has", id="more GPUs than are"),
        pytest.param({"limit_frames": 7}, {}, "7 training frames don't fill one batch of 8", id="large batch"),
    ],
)
def test_what_no_candidate_could_use_is_refused_before_a_folder_is_made(
    setup: dict[str, Any], options: dict[str, Any], seen: str, tiny: Any, tmp_path: Path, search_data: Path
) -> None:
    output = tmp_path / "out"
    job = SearchJob(
        output=output,
        setup=TrialSetup(data=str(search_data), **setup),
        options=TuneOptions(folder=output / "tune", **options),
    )
    with pytest.raises(UsageError, match=seen):
        prepare(job, (tiny("a"),))
    assert not output.exists()
