"""Candidates trained side by side on Ray Tune: one machine or a cluster, early stopping, resumable."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from spacecompile.contract import Progress, no_progress
from spacecompile.errors import InterruptedRunError, MissingPartError, OutputError, UsageError, first_line_of
from spacecompile.search.ray_import import ASHAScheduler, JsonLoggerCallback, ray, tune
from spacecompile.search.results import Costs, Outcome, Status
from spacecompile.search.trial import Told, TrialSetup, device_for, trainable
from spacecompile.train.named_recipes import NamedRecipe

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0

RETRIES = 5
"""Of one candidate whose process or machine is lost."""


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """How candidates are run.

    Attributes:
        folder: Folder of Tune's state and checkpoints; on a cluster one that all machines see at this path.
        ray_address: Address of a cluster; None for this machine alone.
        at_once: Candidates at the same time on this machine; on a cluster as many as its processors and GPUs allow.
        threads: Processors that one candidate takes.
        gpus: Number of GPUs that one candidate takes; fractions share a GPU.
        early_stopping: Whether ASHA stops candidates that are behind.
        grace_epochs: Number of epochs that each candidate gets before ASHA judges it.
        resume: Go on with what the folder holds.
        retry_failed: Whether resuming tries failed candidates again. Not where other candidates came of the outcome.
    """

    folder: Path
    ray_address: str | None = None
    at_once: int = 1
    threads: int = 1
    gpus: float = 0.0
    early_stopping: bool = True
    grace_epochs: int = 1
    resume: bool = False
    retry_failed: bool = True


@contextmanager
def ray_session(options: TuneOptions) -> Iterator[None]:
    """Ray, started for this block on this machine, or connected to a cluster.

    Raises:
        MissingPartError: If there is no cluster at the address.
        UsageError: If this machine, alone, has not what one candidate takes.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        _require_listener(options.ray_address)
        if options.ray_address is None:
            ray.init(num_cpus=options.at_once * options.threads, include_dashboard=False, **quiet)
        else:
            ray.init(address=options.ray_address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        where = options.ray_address or "this machine"
        raise MissingPartError(
            f"Ray can't be used on {where}: {first_line_of(error)}. Start one with `ray start --head` and name it with "
            "--ray-address."
        ) from error
    try:
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        lack = lack_of([node["Resources"] for node in nodes if node["Alive"]], options)
        if lack and options.ray_address is None:
            raise UsageError(f"{lack}. Lower --threads or --gpus, or name a larger cluster with --ray-address.")
        if lack:  # a cluster may start machines for what waits
            log.warning("%s; candidates wait until one that can take them joins %s", lack, options.ray_address)
        yield
    finally:
        ray.shutdown()


def lack_of(machines: Sequence[Mapping[str, float]], options: TuneOptions) -> str:
    """What one candidate takes, if no machine can take it: Ray would wait for one that can, for ever.

    Args:
        machines: What each offers, by Ray's names.
        options: With the wishes of one candidate.

    Returns:
        In words; empty where one has enough of both.
    """
    offers = [(machine.get("CPU", 0.0), machine.get("GPU", 0.0)) for machine in machines]
    if any(cpus >= options.threads and gpus >= options.gpus for cpus, gpus in offers):
        return ""
    largest = ", ".join(f"{cpus:g} and {gpus:g}" for cpus, gpus in sorted(set(offers), reverse=True)) or "nothing"
    wish = f"{options.threads} processors and {options.gpus:g} GPUs"
    return f"a candidate takes {wish}, and the machines at hand have {largest}"


def _require_listener(address: str | None) -> None:
    """Ask whether anybody listens there at all: Ray itself tries for minutes.

    Raises:
        OSError: If nobody does.
        ValueError: If the port is no number.
    """
    host, separator, port = (address or "").removeprefix("ray://").rpartition(":")
    if separator:  # `auto` names no host
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()


class _Watch(tune.Callback):
    """Follows the experiment: progress in epochs, and how every trial ended."""

    def __init__(self, step: str, candidates: Sequence[NamedRecipe], progress: Progress) -> None:
        self.trials: list[Any] = []
        self._wanted = {candidate.name: _as_stored(candidate) for candidate in candidates}
        epochs = {candidate.name: candidate.recipe.epochs for candidate in candidates}
        self.unfinished = 0
        self._step, self._epochs, self._progress = step, epochs, progress
        self._done: dict[str, int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Tune stores its callbacks with the experiment; a resumed one is followed by the watch of its own call."""
        return _watch_of_this_call, ()

    def on_step_begin(self, *, trials: list[Any], **_: Any) -> None:  # type: ignore[override]
        """Before anything is trained on."""
        self.require_wanted(trials)

    def require_wanted(self, trials: Sequence[Any]) -> None:
        """Refuse the trials of another search, which names alone don't tell.

        Raises:
            OutputError: If there is one.
        """
        for trial in trials:
            name = _name_of(trial)
            if self._wanted.get(name) != _as_stored(trial.config["both"]["candidate"]):
                raise OutputError(
                    f"{self._step} holds {name} of another search, with another recipe or network. Begin "
                    "anew with --force, or choose another --output."
                )

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **_: Any) -> None:  # type: ignore[override]
        """An epoch is done. Ray calls by name."""
        self._advance(trial, result["epoch"])

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        """A trial is over, maybe before its last epoch."""
        self._advance(trial, self._epochs[_name_of(trial)])

    def on_step_end(self, *, trials: list[Any], **_: Any) -> None:  # type: ignore[override]
        """Counts what an interrupt leaves: afterwards Ray calls all of them terminated."""
        self.unfinished = sum(trial.status not in ("TERMINATED", "ERROR") for trial in trials)

    def on_experiment_end(self, trials: list[Any], **_: Any) -> None:
        """All are over, or the user interrupts."""
        self.trials = list(trials)

    def _advance(self, trial: Any, epoch: int) -> None:
        self._done[_name_of(trial)] = epoch
        self._progress(self._step, sum(self._done.values()), sum(self._epochs.values()))


_WATCH: ContextVar[_Watch] = ContextVar("watch")


def _watch_of_this_call() -> _Watch:
    return _WATCH.get()


def _as_stored(candidate: NamedRecipe | dict[str, Any]) -> bytes:
    """A candidate, or its stored form, as bytes to compare: from Python a field may hold 1 where it is read as 1.0."""
    return msgspec.json.encode(msgspec.convert(msgspec.to_builtins(candidate), NamedRecipe))


def _name_of(trial: Any) -> str:
    return str(trial.config["both"]["candidate"]["name"])


def run_all(
    candidates: Sequence[NamedRecipe],
    costs: Mapping[str, Costs],
    *,
    setup: TrialSetup,
    options: TuneOptions,
    name: str,
    progress: Progress = no_progress,
) -> tuple[Outcome, ...]:
    """Train every candidate, inside a `ray_session`.

    Args:
        candidates: With different names.
        costs: By name.
        setup: Settings that all candidates share.
        options: How to run them.
        name: Name of this run below `options.folder`; with `options.resume` it goes on where it stopped.
        progress: Told epochs done of all.

    Returns:
        In the order of the candidates.

    Raises:
        InterruptedRunError: If the user stopped it; the state is kept.
        OutputError: If the state to go on with is that of other candidates.
        UsageError: If the device does not go with the GPUs.
    """
    watch = _Watch(name, candidates, progress)
    setup = msgspec.structs.replace(setup, device=device_for(setup.device, options.gpus))
    progress(name, 0, sum(candidate.recipe.epochs for candidate in candidates))
    resources = {"cpu": options.threads, "gpu": options.gpus}
    runnable = tune.with_resources(trainable, resources)
    state = options.folder / name
    token = _WATCH.set(watch)
    try:
        if options.resume and tune.Tuner.can_restore(str(state)):
            tuner = tune.Tuner.restore(
                str(state), trainable=runnable, resume_unfinished=True, restart_errored=options.retry_failed
            )
        else:
            tuner = _new_tuner(runnable, candidates, costs, setup=setup, options=options, name=name, watch=watch)
        tuner.fit()
    finally:
        _WATCH.reset(token)
    watch.require_wanted(watch.trials)
    missing = watch.unfinished + len(candidates) - len(watch.trials)
    if missing:
        raise InterruptedRunError(f"stopped with {missing} candidates unfinished; go on with --resume.")
    by_name = {_name_of(trial): trial for trial in watch.trials}
    return tuple(_outcome(by_name[candidate.name], candidate, costs[candidate.name]) for candidate in candidates)


def _new_tuner(
    runnable: Any,
    candidates: Sequence[NamedRecipe],
    costs: Mapping[str, Costs],
    *,
    setup: TrialSetup,
    options: TuneOptions,
    name: str,
    watch: _Watch,
) -> Any:
    plain = msgspec.to_builtins
    space = {
        "setup": plain(setup),
        "both": tune.grid_search(
            [{"candidate": plain(one), "cost": plain(costs[one.name].rewritten)} for one in candidates]
        ),
    }
    return tune.Tuner(
        runnable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="s_final",
            mode="max",
            scheduler=_scheduler(options, max(candidate.recipe.epochs for candidate in candidates)),
            reuse_actors=True,
            trial_name_creator=_name_of,
            trial_dirname_creator=_name_of,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(options.folder.resolve()),
            callbacks=[watch, JsonLoggerCallback()],  # type: ignore[no-untyped-call]
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            # Two: while a checkpoint is copied the one before is still whole.
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
            verbose=0,
        ),
    )


def _scheduler(options: TuneOptions, epochs: int) -> Any:
    if not options.early_stopping:
        return None
    # The end is told in a report of its own, after the last epoch's: ASHA may not stop a candidate before it.
    return ASHAScheduler(
        time_attr="epoch", max_t=epochs + 1, grace_period=min(options.grace_epochs, epochs), reduction_factor=3
    )


def _outcome(trial: Any, candidate: NamedRecipe, costs: Costs) -> Outcome:
    result = trial.last_result or {}
    told = msgspec.convert(result["told"], Told) if "told" in result else Told(epoch=0, finished=False)
    status, reason = _ending(trial, told)
    return Outcome(
        candidate=candidate,
        status=status,
        reason=reason,
        epochs=told.epoch,
        scores=told.scores,
        costs=costs,
        elapsed_s=told.elapsed_s,
        frames_per_s=told.frames_per_s,
        history=told.history,
        restarts=trial.num_failures,
    )


def _ending(trial: Any, told: Told) -> tuple[Status, str]:
    if told.diverged:
        return "diverged", told.diverged
    if told.failed:
        return "failed", told.failed
    if trial.status == "ERROR":
        error = trial.get_error()
        return "failed", (str(error).strip().splitlines() or [type(error).__name__])[-1]
    if not told.finished:
        return "stopped", f"behind the others after epoch {told.epoch}"
    return "done", ""
