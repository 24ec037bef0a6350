"""Runs that were interrupted, or in which a step failed: what was measured is kept, and what is said is true."""

from __future__ import annotations

import dataclasses
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import UNSET
from numpy.typing import NDArray
from quick_bench import ROUNDS, settings

from spacecompile.benchmarks import race, suite
from spacecompile.benchmarks.latency.energy import Counters
from spacecompile.benchmarks.latency.variants import VariantContestant
from spacecompile.benchmarks.limits.records import LimitReport
from spacecompile.benchmarks.peers.plain_exports import PlainExportPeer
from spacecompile.benchmarks.peers.table import PeerAnswer
from spacecompile.benchmarks.result_records import BenchResult, read_result
from spacecompile.benchmarks.score.records import ScoreReport
from spacecompile.benchmarks.settings import FurtherSettings
from spacecompile.benchmarks.suite import run_bench
from spacecompile.errors import DeviceError, IntegrityError, MissingPartError, SpacecompileError, UsageError
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.bundle import open_bundle


def interrupted(bundle: Path, at_call: int, monkeypatch: pytest.MonkeyPatch, data: Path | None = None) -> BenchResult:
    """A run of one real variant in which Ctrl-C is pressed at one of its calls."""
    run, calls = VariantContestant.run, count(1)

    def run_or_interrupt(contestant: VariantContestant, frame_HWC: NDArray[np.uint8]) -> Answer:
        if next(calls) == at_call:
            raise KeyboardInterrupt
        return run(contestant, frame_HWC)

    monkeypatch.setattr(VariantContestant, "run", run_or_interrupt)
    return run_bench(open_bundle(bundle), settings(peers=False, variants=("fp32",), data=data)).result


def test_an_interrupt_during_the_latency_run_keeps_its_samples(
    tiny_bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Six calls to compare answers, one to warm up, then the fifth round.
    result = interrupted(tiny_bundle, 6 + 1 + 5, monkeypatch, data)
    assert result.partial
    assert isinstance(result.latency, dict)
    assert result.latency["app"]["fp32"].samples == 4
    assert result.score is UNSET
    assert any("interrupted" in warning for warning in result.warnings)
    assert read_result(msgspec.json.encode(result)) == result


def test_an_interrupt_before_the_latency_run_leaves_its_section_out(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = interrupted(tiny_bundle, 1, monkeypatch)
    assert result.partial
    assert result.latency is UNSET
    assert result.peers is UNSET
    assert result.budget.passed
    assert read_result(msgspec.json.encode(result)) == result


def test_an_interrupt_during_the_scores_keeps_the_latency(
    tiny_bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "evaluate", evaluate)
    result = run_bench(open_bundle(tiny_bundle), settings(peers=False, variants=("fp32",), data=data, rounds=1)).result
    assert result.partial
    assert isinstance(result.latency, dict)
    assert result.latency["app"]["fp32"].samples == 1


LIMITS = FurtherSettings()


def test_an_interrupt_during_the_limits_keeps_the_variants_that_are_done(tiny_bundle: Path) -> None:
    def progress(step: str, done: int, _: int) -> None:
        if step == "limits of the variants" and done == 1:
            raise KeyboardInterrupt

    run = run_bench(open_bundle(tiny_bundle), settings(peers=False, rounds=1, limits=LIMITS), progress=progress)
    assert run.result.partial
    assert isinstance(run.result.roofline, LimitReport)
    assert list(run.result.roofline.variants) == ["fp32"]
    assert run.failure is None
    assert read_result(msgspec.json.encode(run.result)) == run.result


def test_a_step_that_fails_after_the_latency_run_costs_only_itself(
    tiny_bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise UsageError("sessions side by side failed: out of memory")

    monkeypatch.setattr(suite, "measure_throughput", fail)
    asked = settings(peers=False, variants=("fp32",), rounds=1, data=data, score_limit=1, throughput=True)
    run = run_bench(open_bundle(tiny_bundle), asked)
    result = run.result
    assert result.partial
    assert result.failed_steps == {"throughput": "sessions side by side failed: out of memory"}
    assert any("the step throughput failed" in warning for warning in result.warnings)
    assert isinstance(run.failure, UsageError)
    assert isinstance(result.latency, dict)
    assert isinstance(result.score, ScoreReport)
    assert list(result.budget.graphs) == ["fp32"]
    assert result.throughput is UNSET
    assert read_result(msgspec.json.encode(result)) == result


def test_a_bug_in_a_step_costs_only_that_step_and_is_told_as_one(
    tiny_bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError("division by zero\nand more")

    monkeypatch.setattr(suite, "evaluate", fail)
    run = run_bench(open_bundle(tiny_bundle), settings(peers=False, variants=("fp32",), data=data, rounds=1))
    assert isinstance(run.result.failed_steps, dict)
    assert run.result.failed_steps["scores"].startswith("ZeroDivisionError: division by zero. This is a bug")
    assert isinstance(run.failure, SpacecompileError)
    assert run.failure.exit_code == 1
    assert "Traceback" in caplog.text
    assert isinstance(run.result.latency, dict)
    assert list(run.result.budget.graphs) == ["fp32"]


def test_a_bug_in_the_race_costs_what_was_not_measured_by_then(
    tiny_bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = race.measure

    def fail(*arguments: Any, **options: Any) -> None:
        measure(*arguments, **options)
        raise MemoryError

    monkeypatch.setattr(race, "measure", fail)
    run = run_bench(open_bundle(tiny_bundle), settings(peers=False, variants=("fp32",), data=data, rounds=1))
    assert run.result.failed_steps == {"latency": "MemoryError. Check the free memory and the disk."}
    assert isinstance(run.result.latency, dict)
    assert run.result.latency["app"]["fp32"].samples > 0


def test_an_engine_that_fails_when_it_is_closed_keeps_what_was_measured(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = VariantContestant.close

    def fail(contestant: VariantContestant) -> None:
        close(contestant)
        raise IntegrityError("the engine gave up")

    monkeypatch.setattr(VariantContestant, "close", fail)
    result = run_bench(open_bundle(tiny_bundle), settings(peers=False, variants=("fp32",), rounds=1)).result
    assert result.failed_steps == {"latency": "the engine gave up"}
    assert isinstance(result.latency, dict)


def test_a_failure_before_anything_was_measured_ends_the_run(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise MissingPartError("no engine")

    monkeypatch.setattr("spacecompile.benchmarks.race.measure", fail)
    with pytest.raises(MissingPartError, match="no engine"):
        run_bench(open_bundle(tiny_bundle), settings(peers=False, variants=("fp32",), rounds=1))


class BrokenCounter:
    """A counter of energy that is there, and then is not."""

    name = "RAPL package-0"

    def joules(self) -> float:
        raise DeviceError("the counter stopped")


def test_energy_that_can_not_be_read_any_more_is_a_step_of_its_own(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = Counters(cpu=(BrokenCounter(),), gpu=())
    monkeypatch.setattr("spacecompile.benchmarks.race.open_counters", lambda: counters)
    result = run_bench(open_bundle(tiny_bundle), settings(peers=False, variants=("fp32",), rounds=1)).result
    assert result.failed_steps == {"energy": "the counter stopped"}
    assert (result.energy, result.energy_note) == (UNSET, "the counter stopped")
    assert isinstance(result.latency, dict)
    # The latency is there, so nothing may say that it is not.
    assert not [warning for warning in result.warnings if "latency" in warning]


def failing_from(at_call: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real variant that fails at one of its calls and ever after."""
    run, calls = VariantContestant.run, count(1)

    def run_or_fail(contestant: VariantContestant, frame_HWC: NDArray[np.uint8]) -> Answer:
        if contestant.name == name and next(calls) >= at_call:
            raise IntegrityError("the engine gave up")
        return run(contestant, frame_HWC)

    monkeypatch.setattr(VariantContestant, "run", run_or_fail)


def test_a_paced_run_that_fails_keeps_the_frames_it_handled_and_the_energy_is_still_measured(
    tiny_bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = settings(peers=False, variants=("fp32",), rounds=1, data=data, score_limit=1)
    asked = dataclasses.replace(asked, contest=dataclasses.replace(asked.contest, rate_hz=200.0, paced_s=0.05))
    # Six calls to compare answers, one to warm up, one round, one before the paced frames; then the third of ten.
    failing_from(6 + 1 + 1 + 1 + 3, "fp32", monkeypatch)
    monkeypatch.setattr(
        "spacecompile.benchmarks.race.open_counters", lambda: Counters(cpu=(), gpu=(), why_no_cpu="n/a")
    )
    result = run_bench(open_bundle(tiny_bundle), asked).result
    assert result.failed_steps == {"paced": "the engine gave up"}
    assert isinstance(result.paced, dict)
    assert result.paced["fp32"].frames == 2
    assert isinstance(result.latency, dict)
    assert result.latency["app"]["fp32"].samples == 1
    assert "the step paced failed, and what it had not measured by then is not there: the engine gave up" in (
        result.warnings
    )
    assert result.energy_note == "n/a"


def test_peers_that_a_failed_latency_run_did_not_reach_say_why(
    tiny_bundle: Path, tiny_checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first round's order is fp32, fp32-d4, then the peers; six calls compare answers, one warms up.
    failing_from(6 + 1 + 1, "fp32-d4", monkeypatch)
    asked = settings(checkpoint=tiny_checkpoint, data=data, score_limit=1)
    result = run_bench(open_bundle(tiny_bundle), asked).result
    assert result.failed_steps == {"latency": "the engine gave up"}
    assert isinstance(result.peers, dict)
    reasons = {peer.missing for peer in result.peers.values()}
    assert reasons == {"the latency run failed before it was measured: the engine gave up"}


@pytest.mark.parametrize("at_call", [1, 6 + 1, 6 + 1 + 3], ids=["comparing answers", "warming up", "in the race"])
def test_a_peer_that_raises_goes_with_its_reason_and_everything_else_is_measured(
    tiny_bundle: Path, tiny_checkpoint: Path, data: Path, at_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = PlainExportPeer.run, count(1)

    def run_or_fail(peer: PlainExportPeer, frame_HWC: NDArray[np.uint8]) -> PeerAnswer:
        if next(calls) == at_call:
            raise RuntimeError("out of memory\nat some place in its source")
        return run(peer, frame_HWC)

    monkeypatch.setattr(PlainExportPeer, "run", run_or_fail)
    asked = settings(checkpoint=tiny_checkpoint, data=data, score_limit=1, variants=("fp32",))
    result = run_bench(open_bundle(tiny_bundle), asked).result
    assert result.failed_steps is UNSET
    assert isinstance(result.peers, dict)
    assert result.peers["plain-export"].missing == "it fails here: RuntimeError: out of memory"
    assert result.peers["plain-export"].ratios == {}
    assert result.peers["pytorch-eager"].ratios["fp32"].rounds == ROUNDS
    assert isinstance(result.latency, dict)
    assert {name: latency.samples for name, latency in result.latency["app"].items()} == {
        "fp32": ROUNDS,
        "pytorch-eager": ROUNDS,
    }
    assert next(calls) == at_call + 1, "a peer that has failed is not called again"


def test_pytorch_that_can_not_run_the_network_is_the_reason_why_its_scores_are_not_there(
    tiny_bundle: Path, tiny_checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(SealedGraph, "forward", fail)
    asked = settings(peers=True, checkpoint=tiny_checkpoint, data=data, score_limit=1, torch_scores=True, rounds=1)
    asked = dataclasses.replace(asked, contest=dataclasses.replace(asked.contest, peers=("plain-export",)))
    result = run_bench(open_bundle(tiny_bundle), asked).result
    assert isinstance(result.score, ScoreReport)
    assert "can't run the checkpoint's network: DefaultCPUAllocator" in result.score.torch_note
    assert not result.partial
