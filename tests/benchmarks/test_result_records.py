from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from msgspec import UNSET

from spacecompile.benchmarks.result_records import BenchResult, read_result


def test_a_results_file_is_read_back_as_it_was(whole_result: BenchResult) -> None:
    assert read_result(msgspec.json.encode(whole_result)) == whole_result


def test_the_keys_that_other_tools_rely_on_are_there(whole_result: BenchResult) -> None:
    document = json.loads(msgspec.json.encode(whole_result))
    assert {"budget", "score", "latency", "peers", "parity"} <= document.keys()
    app = document["latency"]["app"]["fp32"]
    assert {"p50_ms", "p90_ms", "p99_ms", "max_ms", "samples"} <= app.keys()
    assert app["samples"] == 70
    assert app["p90_ms"] > app["p50_ms"] > 0
    assert app["p99_ms"] is None
    assert app["missing_samples"] == {"p99_ms": 592}
    assert document["latency"]["engine"].keys() == {"fp32"}
    ratio = document["peers"]["plain-export"]["ratios"]["fp32"]
    assert ratio == {"ratio": 0.667, "spread": [0.64, 0.69], "rounds": 70}
    assert set(document["score"]["variants"]["fp32"]) >= {"s_cls", "s_det", "s_seg", "s_acc", "s_final"}


def test_a_section_that_was_not_measured_is_absent(whole_result: BenchResult) -> None:
    bare = msgspec.structs.replace(
        whole_result, score=UNSET, latency=UNSET, peers=UNSET, parity=UNSET, configuration=UNSET, cold_start=UNSET
    )
    document = json.loads(msgspec.json.encode(bare))
    assert not {"score", "latency", "peers", "parity", "roofline", "configuration"} & document.keys()
    assert "budget" in document
    assert read_result(msgspec.json.encode(bare)) == bare


def test_an_unknown_field_is_refused(whole_result: BenchResult) -> None:
    document = json.loads(msgspec.json.encode(whole_result))
    document["guess"] = 1
    with pytest.raises(msgspec.ValidationError, match="guess"):
        read_result(json.dumps(document).encode())


RESULTS = sorted(
    (Path(__file__).resolve().parents[2] / "spacecompile" / "benchmarks" / "results").glob("reference_*.json")
)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_results_file_of_an_earlier_version_is_still_read(path: Path) -> None:
    result = read_result(path.read_bytes())
    assert result.latency
    assert result.budget.lines
