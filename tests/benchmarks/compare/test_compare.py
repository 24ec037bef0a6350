from __future__ import annotations

import numpy as np
import pytest
from msgspec import UNSET
from msgspec.structs import replace

from spacecompile.benchmarks.compare.compare import NamedResult, compare_named, regression_error, share_from_text
from spacecompile.benchmarks.compare.latency import ratio_interval
from spacecompile.benchmarks.compare.records import Change, Comparison
from spacecompile.benchmarks.latency.records import VariantEngine
from spacecompile.benchmarks.latency.summary import summarise
from spacecompile.benchmarks.result_records import BenchResult, Configuration
from spacecompile.errors import BudgetError, UsageError


def with_app(result: BenchResult, **samples_ms: list[float]) -> BenchResult:
    names = {name.replace("_", "-"): summarise(values) for name, values in samples_ms.items()}
    assert isinstance(result.latency, dict)
    return replace(result, latency={"app": {**result.latency["app"], **names}})


def around(median_ms: float, samples: int = 80, *, seed: int = 3) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).normal(median_ms, 0.03 * median_ms, samples)]


def compared(old: BenchResult, new: BenchResult, fail_on: float | None = None) -> Comparison:
    return compare_named(
        NamedResult(name="old.json", result=old), NamedResult(name="new.json", result=new), fail_on=fail_on
    )


def change_of(comparison: Comparison, what: str) -> Change:
    (found,) = [change for change in comparison.changes if change.what == what]
    return found


@pytest.mark.parametrize(
    ("new_ms", "verdict", "fails"),
    [
        (around(100, seed=4), "same", False),
        (around(104, seed=4), "worse", False),
        (around(110, seed=4), "worse", True),
        (around(80, seed=4), "better", False),
        (around(150, 5), "not judged", False),
    ],
    ids=["noise", "slower by less", "slower by more", "faster", "too few samples"],
)
def test_only_a_median_that_is_worse_beyond_noise_by_as_much_fails(
    whole_result: BenchResult, new_ms: list[float], verdict: str, fails: bool
) -> None:
    old = with_app(whole_result, fp32=around(100))
    comparison = compared(old, with_app(whole_result, fp32=new_ms), fail_on=0.05)
    assert change_of(comparison, "fp32, app, median").verdict == verdict
    assert comparison.failed == (("fp32, app, median",) if fails else ())
    assert (regression_error(comparison) is not None) == fails


def test_without_a_limit_nothing_fails_however_much_slower(whole_result: BenchResult) -> None:
    comparison = compared(with_app(whole_result, fp32=around(100)), with_app(whole_result, fp32=around(300)))
    assert change_of(comparison, "fp32, app, median").worse_by == pytest.approx(2.0, abs=0.1)
    assert regression_error(comparison) is None


def test_the_error_names_what_got_worse_and_exits_6(whole_result: BenchResult) -> None:
    comparison = compared(
        with_app(whole_result, fp32=around(100)), with_app(whole_result, fp32=around(130)), fail_on=0.05
    )
    error = regression_error(comparison)
    assert isinstance(error, BudgetError)
    assert error.exit_code == 6
    assert "fp32, app, median" in str(error)


def test_a_lower_score_is_worse_and_counts_without_noise(whole_result: BenchResult) -> None:
    assert whole_result.score is not UNSET
    scores = replace(whole_result.score.variants["fp32"], s_final=0.80)  # type: ignore[union-attr]
    lower = replace(whole_result, score=replace(whole_result.score, variants={"fp32": scores}))
    comparison = compared(whole_result, lower, fail_on=0.05)
    assert comparison.failed == ("fp32, s_final",)
    assert change_of(comparison, "fp32, s_final").worse_by == pytest.approx(1 - 0.80 / 0.9122)
    assert compared(lower, whole_result, fail_on=0.05).failed == ()


def test_scores_on_other_frames_are_shown_and_not_judged(whole_result: BenchResult) -> None:
    assert whole_result.score is not UNSET
    elsewhere = replace(whole_result, score=replace(whole_result.score, data="other frames"))
    change = change_of(compared(whole_result, elsewhere), "fp32, s_final")
    assert (change.verdict, change.note) == ("not judged", "scored on other frames")


def test_a_peer_tells_how_far_the_machine_moved_and_is_not_judged(whole_result: BenchResult) -> None:
    slow = with_app(whole_result, plain_export=around(240))
    comparison = compared(with_app(whole_result, plain_export=around(120)), slow, fail_on=0.05)
    assert comparison.drift["plain-export"] == pytest.approx(1.0, abs=0.05)
    assert comparison.failed == ()
    assert not [change for change in comparison.changes if change.what.startswith("plain-export")]


def test_a_variant_is_judged_over_the_drift_of_the_peers(whole_result: BenchResult) -> None:
    old = with_app(whole_result, fp32=around(100), plain_export=around(120))
    # The whole machine takes twice as long: the variant got no worse by that, and 20 % on top are its own.
    drifted = with_app(whole_result, fp32=around(200, seed=4), plain_export=around(240, seed=5))
    worse = with_app(whole_result, fp32=around(240, seed=4), plain_export=around(240, seed=5))
    same = change_of(compared(old, drifted, fail_on=0.05), "fp32, app, median")
    assert (same.verdict, same.change) == ("same", pytest.approx(1.0, abs=0.03))
    assert same.over_peers == pytest.approx(0.0, abs=0.03)
    comparison = compared(old, worse, fail_on=0.05)
    change = change_of(comparison, "fp32, app, median")
    assert change.verdict == "worse"
    assert change.worse_by == pytest.approx(0.2, abs=0.04)
    assert comparison.failed == ("fp32, app, median",)


def without_peers(result: BenchResult, **changes: object) -> BenchResult:
    result = with_app(result, fp32=around(100))
    assert isinstance(result.configuration, Configuration)
    backend = changes.pop("backend", "openvino")
    engine = VariantEngine(name=str(backend), version="1", reason="")
    return replace(
        result,
        peers=UNSET,
        environment=replace(result.environment, **changes),
        configuration=replace(result.configuration, engines={"fp32": engine}),
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"cpu": "Ground Processor 1"}, "not comparable: the files differ in processor,"),
        ({"threads": 4}, "not comparable: the files differ in threads,"),
        ({"backend": "onnxruntime"}, "not comparable: the files differ in engine,"),
        ({"cpu": "Ground Processor 1", "threads": 4}, "not comparable: the files differ in processor and threads,"),
    ],
    ids=["nothing", "processor", "threads", "engine", "two"],
)
def test_without_a_common_peer_other_circumstances_are_not_judged(
    whole_result: BenchResult, changes: dict[str, object], said: str
) -> None:
    comparison = compared(without_peers(whole_result), without_peers(whole_result, **changes))
    change = change_of(comparison, "fp32, app, median")
    assert change.note.startswith(said)
    assert change.verdict == ("not judged" if said else "same")
    assert change.over_peers is None


def test_a_peer_of_another_version_is_no_measure_of_the_machine(whole_result: BenchResult) -> None:
    assert isinstance(whole_result.peers, dict)
    other = {name: replace(peer, versions="onnxruntime 9") for name, peer in whole_result.peers.items()}
    change = change_of(compared(whole_result, replace(whole_result, peers=other)), "fp32, app, median")
    assert change.over_peers is None


SHRUNK = {"input_size_px": (384, 384)}
OTHER_WEIGHTS = {"source_sha256": "f" * 64}


@pytest.mark.parametrize(
    "subject", [OTHER_WEIGHTS, SHRUNK, {"frame_size_px": (768, 768)}], ids=["checkpoint", "input", "frame"]
)
def test_peers_that_ran_another_network_do_not_hide_that_it_is_slower(
    whole_result: BenchResult, subject: dict[str, object]
) -> None:
    old = with_app(whole_result, fp32=around(100), plain_export=around(120))
    # The peers run the bundle's own network: a slower one slows them too, on a machine that did not move.
    new = with_app(whole_result, fp32=around(150, seed=4), plain_export=around(180, seed=5))
    new = replace(new, subject=replace(new.subject, **subject))
    comparison = compared(old, new, fail_on=0.05)
    change = change_of(comparison, "fp32, app, median")
    assert (change.verdict, change.over_peers) == ("worse", None)
    assert change.worse_by == pytest.approx(0.5, abs=0.05)
    assert "fp32, app, median" in comparison.failed
    assert comparison.drift == {}
    assert comparison.drift_note == "their peers ran different networks"


def test_the_note_about_peers_is_true_of_them(whole_result: BenchResult) -> None:
    moved = replace(whole_result, environment=replace(whole_result.environment, cpu="Ground Processor 1"))
    other = replace(moved, subject=replace(moved.subject, **OTHER_WEIGHTS))
    assert isinstance(moved.peers, dict)
    newer = replace(moved, peers={name: replace(peer, versions="9") for name, peer in moved.peers.items()})
    few = with_app(moved, plain_export=around(120, 5))
    assert isinstance(moved.latency, dict)
    alone = {scope: {"fp32": named["fp32"]} for scope, named in moved.latency.items()}
    notes = [
        change_of(compared(whole_result, new), "fp32, app, median").note
        for new in (moved, other, newer, few, replace(moved, peers=UNSET), replace(other, latency=alone))
    ]
    assert notes[0] == ""
    for note, said in zip(
        notes[1:],
        (
            "ran different networks",
            "by the same versions",
            "in 11 samples",
            "no peer ran in both",
            "no peer ran in both",
        ),
        strict=True,
    ):
        assert note.startswith("not comparable: the files differ in processor, and ")
        assert said in note


def test_drift_is_told_of_the_peers_that_were_judged_by(whole_result: BenchResult) -> None:
    assert isinstance(whole_result.peers, dict)
    eager = replace(whole_result.peers["plain-export"], versions="torch 2.15")
    peers = {**whole_result.peers, "pytorch-eager": eager}
    old = with_app(replace(whole_result, peers=peers), plain_export=around(120), pytorch_eager=around(200))
    newer = {**peers, "pytorch-eager": replace(eager, versions="torch 3.0")}
    new = with_app(replace(whole_result, peers=newer), plain_export=around(120), pytorch_eager=around(400))
    comparison = compared(old, new)
    assert list(comparison.drift) == ["plain-export"]
    assert comparison.drift_note == ""


def test_scope_device_counts_only_where_it_is_not_engine_once_more(whole_result: BenchResult) -> None:
    assert isinstance(whole_result.latency, dict)
    engine = whole_result.latency["engine"]
    twice = replace(whole_result, latency={**whole_result.latency, "device": engine})
    assert [change.what for change in compared(twice, twice).changes if "device" in change.what] == []
    own = replace(twice, latency={**whole_result.latency, "device": {"fp32": summarise(around(70))}})
    assert [change.what for change in compared(own, own).changes if "device" in change.what] == ["fp32, device, median"]


@pytest.mark.parametrize(
    ("backend", "verdict"), [("onnxruntime-cuda", "not judged"), ("onnxruntime", "same"), ("of-tomorrow", "same")]
)
def test_a_scope_that_was_measured_otherwise_on_a_gpu_is_not_judged(
    whole_result: BenchResult, backend: str, verdict: str
) -> None:
    def with_meaning(meaning: str) -> BenchResult:
        assert isinstance(whole_result.configuration, Configuration)
        engine = VariantEngine(name=backend, version="1", reason="asked for")
        changed = replace(
            whole_result.configuration, engines={"fp32": engine}, scopes=dict.fromkeys(("engine", "app"), meaning)
        )
        return replace(whole_result, configuration=changed)

    comparison = compared(with_meaning("by the host's clock"), with_meaning("by CUDA events"))
    assert change_of(comparison, "fp32, engine, median").verdict == verdict
    assert change_of(comparison, "fp32, app, median").verdict == "same"


def test_circumstances_that_differ_are_named(whole_result: BenchResult) -> None:
    environment = replace(whole_result.environment, cpu="Ground Processor 1", versions={"python": "3.12"})
    comparison = compared(whole_result, replace(whole_result, environment=environment))
    assert comparison.differences == (
        "processor: Flight Processor 9 in the old file, Ground Processor 1 in the new one",
        "numpy: 2 in the old file, absent in the new one",
        "python: 3.11 in the old file, 3.12 in the new one",
    )


def test_what_one_file_lacks_is_named(whole_result: BenchResult) -> None:
    comparison = compared(whole_result, with_app(whole_result, int8=around(50)))
    assert (comparison.only_old, comparison.only_new) == ((), ("int8",))


def test_files_without_anything_in_common_are_refused(whole_result: BenchResult) -> None:
    empty = replace(whole_result, latency=UNSET, score=UNSET)
    with pytest.raises(UsageError, match="nothing in common"):
        compared(whole_result, empty)


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    inside = 0
    for seed in range(60):
        low, high = ratio_interval(
            around(100, 40, seed=seed), around(110, 40, seed=1000 + seed), confidence=0.9, seed=seed
        )
        inside += low <= 1.1 <= high
    assert 45 <= inside <= 60


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), ("12.5%", 0.125)])
def test_a_share_is_read_with_or_without_a_percent_sign(text: str, share: float) -> None:
    assert share_from_text(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["0", "-5%", "much", "inf", "nan", "%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="such as 5%"):
        share_from_text(text)
