"""A whole search: count, train, rank, write. Of architectures here; `phases` has the one of hyperparameters."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from spacecompile.contract import Progress, no_progress
from spacecompile.data.labels import usable_split
from spacecompile.errors import BuildError, OutputError, UsageError
from spacecompile.files import replacing, write_file
from spacecompile.machine.environment import load_average, read_environment
from spacecompile.search.counting import count_all
from spacecompile.search.page import page_of, png_of
from spacecompile.search.pareto import frontier_of, knee_of
from spacecompile.search.results import Circumstances, Costs, Outcome, SearchResult, ranked, result_bytes
from spacecompile.search.trial import TrialSetup, device_for
from spacecompile.search.tuning import TuneOptions, ray_session, run_all
from spacecompile.train.loop import steps_per_epoch
from spacecompile.train.named_recipes import NamedRecipe

RESULT_FILES = ("search.json", "best.json", "index.html", "pareto.png", "costs.json")
SETTINGS = "settings.json"


@dataclass(frozen=True, kw_only=True)
class SearchJob:
    """What every search needs.

    Attributes:
        output: Folder of the search.
        setup: On what to train.
        options: How to run candidates; its folder lies in `output`.
        charged_size_px: (height, width) that multiply-adds are counted at; the input's when None. Phases scale it with
            a candidate's input.
        force: Begin anew where the folder holds an earlier search.
        command: Command that the user typed.
    """

    output: Path
    setup: TrialSetup
    options: TuneOptions
    charged_size_px: tuple[int, int] | None = None
    force: bool = False
    command: str = ""


def search_architectures(
    candidates: Sequence[NamedRecipe], job: SearchJob, *, progress: Progress = no_progress
) -> SearchResult:
    """Train every network under one recipe and find the Pareto frontier.

    Args:
        candidates: With different names. Those that smp refuses take no part and are listed with the reason.
        job: Settings of the search.
        progress: Told the steps.

    Raises:
        OutputError: If the folder holds an earlier search, or can't be written.
        DataError: If the frames can't be read.
        BuildError: If no network could be trained.
        InterruptedRunError: If the user stopped it.
    """
    start_s, load_start = time.perf_counter(), load_average()
    prepare(job, candidates)
    outcomes = train_all(candidates, job, name="architectures", progress=progress)
    best = require_best(outcomes)
    scored = [outcome for outcome in outcomes if outcome.s_final >= 0]
    points = [(outcome.s_efficiency, outcome.scores.s_acc) for outcome in scored if outcome.scores]
    frontier = frontier_of(points)
    knee = knee_of(points, frontier)
    result = SearchResult(
        kind="architectures",
        best=best.candidate,
        circumstances=circumstances(job, candidates, start_s=start_s, load_start=load_start),
        outcomes=outcomes,
        frontier=tuple(scored[index].candidate.name for index in frontier),
        knee="" if knee is None else scored[knee].candidate.name,
    )
    write_result(job, result)
    return result


def prepare(job: SearchJob, candidates: Sequence[NamedRecipe], *, phases: Sequence[str] = ()) -> None:
    """Refuse what can't work before minutes of work, and make the folder.

    Args:
        job: Settings of the search.
        candidates: To begin with.
        phases: Phases that follow from the candidates.

    Raises:
        OutputError: If the folder holds an earlier search, another search is to be resumed, or it can't be written.
        DataError: If the frames can't be read.
        UsageError: If a candidate's spec or batch, the device or the GPUs make no sense.
    """
    _check_device(job)
    for candidate in candidates:
        candidate.model_spec()
    _check_frames(job, max(candidate.recipe.batch_size for candidate in candidates))
    settings = job.output / SETTINGS
    wanted = _settings_of(job, candidates, phases)
    if settings.exists() and job.options.resume:
        if differing := _differing(settings, wanted):
            raise OutputError(
                f"{job.output} holds another search: it differs in {', '.join(differing)}. Give the flags that it was "
                "started with, or choose another --output."
            )
    elif settings.exists() and not job.force:
        raise OutputError(f"{job.output} holds a search. Go on with --resume, begin anew with --force.")
    elif job.options.resume:
        raise OutputError(f"{job.output} holds no search to resume. Start without --resume.")
    else:
        _clear(job)
        write_file(settings, wanted)


def _settings_of(job: SearchJob, candidates: Sequence[NamedRecipe], phases: Sequence[str]) -> bytes:
    """What a resumed search must share with the one that began it, by the name that a user knows it by."""
    options, setup = job.options, msgspec.to_builtins(job.setup)
    return msgspec.json.encode(
        {
            "networks or recipe": candidates,
            **{f"--{name.replace('_', '-')}": value for name, value in setup.items()},
            "--charge-imgsz": job.charged_size_px,
            "--phases": phases,
            "--gpus": options.gpus,
            "--early-stopping": options.early_stopping,
            "--grace-epochs": options.grace_epochs,
        }
    )


def _differing(settings: Path, wanted: bytes) -> list[str]:
    """Names of what differs between the settings on disk and those that are wanted, as they are read back."""
    given = msgspec.json.decode(wanted, type=dict[str, Any])
    try:
        stored = msgspec.json.decode(settings.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError):
        stored = {}
    return [name for name, value in given.items() if name not in stored or stored[name] != value]


def _check_device(job: SearchJob) -> None:
    gpus = job.options.gpus
    device_for(job.setup.device, gpus)
    if job.options.ray_address is None and torch.cuda.device_count() < gpus:
        raise UsageError(
            f"--gpus is {gpus:g} and this machine has {torch.cuda.device_count()} GPUs that torch can use. Lower it, "
            "or name a cluster with --ray-address."
        )


def _check_frames(job: SearchJob, batch_size: int) -> None:
    train, _ = (usable_split(job.setup.data, split) for split in ("train", "val"))
    steps_per_epoch(len(train.spread(job.setup.limit_frames)), batch_size)


def _clear(job: SearchJob) -> None:
    """Costs are kept: they depend on nothing but the network."""
    with suppress(FileNotFoundError):
        shutil.rmtree(job.options.folder)
    for name in RESULT_FILES[:-1]:
        (job.output / name).unlink(missing_ok=True)


def train_all(
    candidates: Sequence[NamedRecipe],
    job: SearchJob,
    *,
    name: str,
    charged_for_px: tuple[int, int] | None = None,
    progress: Progress,
) -> tuple[Outcome, ...]:
    """Count and train candidates; outcomes best first, refused ones last. `charged_for_px` as for `count_all`."""
    counted = count_all(
        candidates,
        charged_size_px=job.charged_size_px,
        charged_for_px=charged_for_px,
        cache=job.output / "costs.json",
        progress=progress,
    )
    costs = {key: value for key, value in counted.items() if isinstance(value, Costs)}
    sound = [candidate for candidate in candidates if candidate.name in costs]
    trained: tuple[Outcome, ...] = ()
    if sound:
        with ray_session(job.options):
            trained = run_all(sound, costs, setup=job.setup, options=job.options, name=name, progress=progress)
    return ranked((*trained, *_refused(candidates, counted)))


def _refused(candidates: Sequence[NamedRecipe], counted: Mapping[str, Costs | str]) -> list[Outcome]:
    reasons = {candidate.name: counted[candidate.name] for candidate in candidates}
    return [
        Outcome(candidate=candidate, status="refused", reason=reason)
        for candidate in candidates
        if isinstance(reason := reasons[candidate.name], str)
    ]


def require_best(outcomes: Sequence[Outcome]) -> Outcome:
    """The first of ranked outcomes.

    Raises:
        BuildError: If it gave no usable network either.
    """
    if not outcomes or outcomes[0].s_final < 0:
        reasons = "; ".join(f"{outcome.candidate.name}: {outcome.reason}" for outcome in outcomes)
        raise BuildError(f"no network could be trained. {reasons}")
    return outcomes[0]


def circumstances(
    job: SearchJob, candidates: Sequence[NamedRecipe], *, start_s: float, load_start: float | None
) -> Circumstances:
    """Where and how the search ran."""
    setup, spec = job.setup, candidates[0].model_spec()
    counts = {
        split: len(usable_split(setup.data, split).spread(limit))
        for split, limit in (("train", setup.limit_frames), ("val", 0))
    }
    return Circumstances(
        command=job.command,
        frames=counts,
        input_size_px=spec.input_size_px,
        charged_size_px=job.charged_size_px or spec.input_size_px,
        early_stopping=job.options.early_stopping,
        elapsed_s=round(time.perf_counter() - start_s, 1),
        environment=read_environment(threads=setup.threads, load_average_start=load_start),
    )


def write_result(job: SearchJob, result: SearchResult) -> None:
    """Write `search.json`, `best.json` (a recipe for `train`) and the page with its picture.

    Raises:
        OutputError: If a file can't be written.
    """
    write_file(job.output / "search.json", result_bytes(result))
    best = msgspec.json.format(msgspec.json.encode(result.best), indent=2) + b"\n"
    write_file(job.output / "best.json", best)
    write_file(job.output / "index.html", page_of(result))
    if result.kind == "architectures":
        with replacing(job.output / "pareto.png") as partial_path:
            partial_path.write_bytes(png_of(result))
