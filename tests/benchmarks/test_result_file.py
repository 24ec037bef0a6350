from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from spacecompile.benchmarks.latency.records import VariantEngine
from spacecompile.benchmarks.result_file import dated_file, file_of_result
from spacecompile.benchmarks.result_records import BenchResult, Configuration


def test_a_file_is_named_after_its_parts_and_the_day(tmp_path: Path) -> None:
    path = dated_file(tmp_path, "cuda", "NVIDIA H200 (SXM)")
    assert path.parent == tmp_path
    assert re.fullmatch(r"cuda_nvidia-h200-sxm_20\d\d-\d\d-\d\d\.json", path.name)


def test_a_further_run_of_the_day_gets_a_number_and_never_another_run_s_file(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        path = dated_file(tmp_path, "net", "cpu")
        path.write_text("mine")
        names.append(path.name)
    first = names[0].removesuffix(".json")
    assert names == [f"{first}.json", f"{first}_2.json", f"{first}_3.json"]
    assert dated_file(tmp_path, "net", "cpu", force=True).name == names[0]


@pytest.mark.parametrize(("engine", "device"), [("openvino", "cpu"), ("tensorrt", "cuda")])
def test_a_result_is_named_after_its_bundle_and_what_ran_it(
    whole_result: BenchResult, engine: str, device: str, tmp_path: Path
) -> None:
    assert isinstance(whole_result.configuration, Configuration)
    engines = {"fp32": VariantEngine(name=engine, version="1", reason="")}
    result = replace(whole_result, configuration=replace(whole_result.configuration, engines=engines))
    assert file_of_result(tmp_path, result).name.startswith(f"net_{device}_20")


def test_a_run_that_was_stopped_before_anything_was_measured_has_a_name_too(
    whole_result: BenchResult, tmp_path: Path
) -> None:
    stopped = replace(whole_result, configuration=UNSET, partial=True)
    assert file_of_result(tmp_path, stopped).name.startswith("net_cpu_20")
