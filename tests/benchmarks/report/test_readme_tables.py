from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import UNSET

from spacecompile.benchmarks import result_records as records
from spacecompile.benchmarks.report.readme_tables import results_block
from spacecompile.benchmarks.result_records import BenchResult, read_result


def test_every_variant_is_named_with_the_engine_that_ran_it(whole_result: BenchResult) -> None:
    block = results_block(whole_result)
    assert "**fp32** (sealed, OpenVINO)" in block
    assert "**fp32-d4** (sealed, ONNX Runtime)" in block
    assert "openvino 2026.4" in block


def test_a_committed_file_from_before_engines_were_recorded_names_onnx_runtime() -> None:
    folder = Path(records.__file__).parent / "results"
    result = read_result((folder / "reference_cpu_2026-11-22.json").read_bytes())
    assert result.configuration is not UNSET
    assert result.configuration.engines == {}  # type: ignore[union-attr]
    assert result.skipped is UNSET
    assert "**fp32** (sealed, ONNX Runtime)" in results_block(result)
    assert read_result(msgspec.json.encode(result)) == result
