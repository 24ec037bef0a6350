"""Ray Tune at work: a whole search on one machine, and on two nodes of which one is killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("ray", reason="needs the search extra")

from spacecompile.errors import MissingPartError, OutputError, UsageError
from spacecompile.search.results import Costs
from spacecompile.search.trial import Told, TrialSetup, run_candidate
from spacecompile.search.tuning import TuneOptions, lack_of, ray_session, run_all
from spacecompile.train.recipe import Recipe

pytestmark = [
    # Ray and its processes leave sockets and files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 5,
}
"""A lost node is noticed after seconds instead of half a minute."""


@pytest.mark.slow  # Ray takes seconds to start, each of its processes some more to import torch
def test_all_are_trained_the_diverged_one_is_caught_and_a_resumed_search_trains_nothing_again(
    tiny: Any, costs: Costs, search_data: Path, tmp_path: Path
) -> None:
    candidates = [tiny("slow", lr=1e-5, epochs=3), tiny("wild", lr=1e30, epochs=3), tiny("good", lr=2e-3, epochs=3)]
    prices = {candidate.name: costs for candidate in candidates}
    setup, told = TrialSetup(data=str(search_data), device="cpu"), []
    options = TuneOptions(folder=tmp_path / "tune", early_stopping=False)
    with ray_session(options):
        outcomes = run_all(
            candidates, prices, setup=setup, options=options, name="first", progress=lambda *step: told.append(step)
        )
        again = run_all(
            candidates,
            prices,
            setup=setup,
            options=TuneOptions(folder=options.folder, early_stopping=False, resume=True),
            name="first",
        )
        with pytest.raises(OutputError, match="holds slow of another search"):
            run_all(
                [tiny("slow", lr=2e-5, epochs=3), *candidates[1:]],
                prices,
                setup=setup,
                options=TuneOptions(folder=options.folder, early_stopping=False, resume=True),
                name="first",
            )
    assert [(one.candidate.name, one.status, one.epochs) for one in outcomes] == [
        ("slow", "done", 3),
        ("wild", "diverged", 0),
        ("good", "done", 3),
    ]
    assert outcomes[2].s_final > outcomes[0].s_final > outcomes[1].s_final == -1
    assert told[0] == ("first", 0, 9)
    assert told[-1] == ("first", 9, 9)
    assert again == outcomes
    assert (tmp_path / "tune" / "first" / "good").is_dir()


@pytest.mark.slow
def test_two_nodes_of_which_one_is_killed_lose_nothing(
    tiny: Any, costs: Costs, search_data: Path, tmp_path: Path
) -> None:
    from ray.cluster_utils import Cluster

    epochs = 12
    candidates = [tiny(name, lr=lr, epochs=epochs) for name, lr in (("a", 1e-3), ("b", 2e-3), ("c", 3e-3))]
    setup = TrialSetup(data=str(search_data), device="cpu")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": HEALTH})
    try:
        second = cluster.add_node(num_cpus=1)
        killed = []

        def kill_one(step: str, done: int, total: int) -> None:
            # Both nodes have had several epochs by then: neither can have done them alone within one candidate.
            if done > epochs and not killed:
                killed.append(done)
                cluster.remove_node(second, allow_graceful=False)

        options = TuneOptions(folder=tmp_path / "tune", ray_address=cluster.address, early_stopping=False)
        with ray_session(options):
            outcomes = run_all(
                candidates,
                {candidate.name: costs for candidate in candidates},
                setup=setup,
                options=options,
                name="cluster",
                progress=kill_one,
            )
    finally:
        cluster.shutdown()
    assert killed
    assert sum(one.restarts for one in outcomes) >= 1
    assert [(one.status, one.epochs, len(one.history)) for one in outcomes] == [("done", epochs, epochs)] * 3
    for outcome in outcomes:
        undisturbed: list[Told] = []
        run_candidate(
            outcome.candidate,
            setup,
            cost=costs.rewritten,
            output=tmp_path / outcome.candidate.name,
            before=None,
            tell=undisturbed.append,
        )
        assert outcome.scores == undisturbed[-1].scores
        assert outcome.history == undisturbed[-1].history


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"])
def test_a_cluster_that_is_not_there_is_named(address: str, tmp_path: Path) -> None:
    options = TuneOptions(folder=tmp_path, ray_address=address)
    with (
        pytest.raises(MissingPartError, match=rf"Ray can't be used on {address}.*ray start --head"),
        ray_session(options),
    ):
        pytest.fail("connected")


MACHINES = [{"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}]


@pytest.mark.parametrize(("threads", "gpus"), [(4, 0.0), (2, 1.0), (1, 0.25)])
def test_a_candidate_that_one_machine_can_take_lacks_nothing(threads: int, gpus: float, tmp_path: Path) -> None:
    assert lack_of(MACHINES, TuneOptions(folder=tmp_path, threads=threads, gpus=gpus)) == ""


@pytest.mark.parametrize(("threads", "gpus"), [(5, 0.0), (1, 2.0), (4, 1.0)], ids=["CPUs", "GPUs", "both of one"])
def test_what_no_machine_has_is_said_with_what_they_have(threads: int, gpus: float, tmp_path: Path) -> None:
    lack = lack_of(MACHINES, TuneOptions(folder=tmp_path, threads=threads, gpus=gpus))
    assert lack == (
        f"a candidate takes {threads} processors and {gpus:g} GPUs, and the machines at hand have 4 and 0, 2 and 1"
    )


@pytest.mark.slow
def test_a_session_of_this_machine_refuses_a_gpu_that_ray_does_not_find(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"64 GPUs.*Lower --threads or --gpus"),
        ray_session(TuneOptions(folder=tmp_path, gpus=64.0)),
    ):
        pytest.fail("started")


@pytest.mark.slow
def test_a_cluster_may_grow_for_what_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        with ray_session(TuneOptions(folder=tmp_path, ray_address=cluster.address, threads=4)):
            assert "4 processors and 0 GPUs, and the machines at hand have 1 and" in caplog.text
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_a_failed_candidate_is_tried_again_unless_others_came_of_its_outcome(
    tiny: Any, costs: Costs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mended = str(tmp_path / "mended")

    def needs_a_file(config: dict[str, Any]) -> None:
        """Pickled by value into Ray's process, which knows no test module."""
        import os

        from ray import tune

        if not os.path.exists(mended):  # noqa: PTH110
            raise OSError("disk full")
        told = {"epoch": 2, "finished": True, "s_final": 0.5}
        tune.report({"told": told, "epoch": 2, "s_final": 0.5})

    monkeypatch.setattr("spacecompile.search.tuning.trainable", needs_a_file)
    monkeypatch.setattr("spacecompile.search.tuning.RETRIES", 0)
    folder, endings = tmp_path / "tune", []
    options = TuneOptions(folder=folder, early_stopping=False)
    calls = (
        options,
        replace(options, resume=True, retry_failed=False),
        replace(options, resume=True),
    )
    setup = TrialSetup(data="nowhere", device="cpu")
    with ray_session(options):
        for each in calls:
            # From Python a number may be a whole one.
            candidate = msgspec.structs.replace(tiny("a"), recipe=Recipe(epochs=2, batch_size=8, zoom=1))
            (outcome,) = run_all([candidate], {"a": costs}, setup=setup, options=each, name="first")
            endings.append(outcome.status)
            Path(mended).touch()
    assert endings == ["failed", "failed", "done"]
