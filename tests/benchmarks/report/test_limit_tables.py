"""What `bench` says of limits and scaling, and what the README would show of them."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import UNSET

from spacecompile.benchmarks.report.readme_tables import results_block
from spacecompile.benchmarks.report.tables import tables_of
from spacecompile.benchmarks.result_records import BenchResult, read_result
from spacecompile.cli.show.bench import say_result


def test_every_number_of_limits_and_scaling_is_said(
    limited_result: BenchResult, capsys: pytest.CaptureFixture[str]
) -> None:
    say_result(limited_result)
    said = " ".join(capsys.readouterr().err.split())
    for words in ("51%", "encoder_conv", "fp32-d4 has no limit", "31.0 ms + 135.0 ms x megapixels", "input 2048"):
        assert words in said


def test_a_result_without_them_says_why_or_nothing(
    whole_result: BenchResult, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not {"limits", "ceilings", "bandwidths", "scaling", "scaling_points"} & tables_of(whole_result).keys()
    say_result(msgspec.structs.replace(whole_result, roofline_note="onnx is missing"))
    assert "onnx is missing" in capsys.readouterr().err


def test_the_readme_s_tables_show_the_limit_that_each_variant_reaches(limited_result: BenchResult) -> None:
    assert "| fp32 | 40.0 ms | compute | 79.0 ms | 51% |" in results_block(limited_result)
    assert "limit of the machine" not in results_block(msgspec.structs.replace(limited_result, roofline=UNSET))


def test_the_results_file_is_read_back_whole(limited_result: BenchResult) -> None:
    assert read_result(msgspec.json.encode(limited_result)) == limited_result
