"""The table of rewrites that `build` prints."""

from __future__ import annotations

import pytest

from spacecompile.cli.show.build import say_passes
from spacecompile.contract import Cost, PassReport

BEFORE = Cost(params=3_453_932, macs_fvcore=4_478_470_656, macs_torch=4_411_623_936)
AFTER = Cost(params=3_387_884, macs_fvcore=3_396_340_224, macs_torch=3_337_882_112)


@pytest.mark.parametrize(
    ("fields", "cells"),
    [
        pytest.param(
            {"changed": True, "after": AFTER, "relative_error": 6.4e-16},
            ["a_pass", "4.4785 -> 3.3963", "3.4539 -> 3.3879", "6.4e-16"],
            id="changed",
        ),
        pytest.param(
            {"changed": True, "relative_error": 0.0}, ["a_pass", "4.4785", "3.4539", "0.0e+00"], id="changed-for-free"
        ),
        pytest.param({}, ["a_pass", "nothing to do"], id="nothing-to-do"),
        pytest.param({"skipped": "failed on [x]: y"}, ["a_pass", "skipped: it failed on [x]: y"], id="skipped"),
    ],
)
def test_a_pass_is_a_row(fields: dict[str, object], cells: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    defaults = {"name": "a_pass", "changed": False, "before": BEFORE, "after": BEFORE, "relative_error": 0.0}
    say_passes([PassReport(**(defaults | fields))])
    title, heads, row = capfd.readouterr().err.splitlines()
    assert title.rstrip() == "Rewrites"
    assert heads.split("  ")[0] == "pass"
    assert [cell.strip() for cell in row.split("  ") if cell.strip()] == cells


def test_a_long_reason_wraps_and_is_kept_whole(capfd: pytest.CaptureFixture[str]) -> None:
    reason = "failed on Segformer with encoder mit_b0: " + " ".join(f"word{index}" for index in range(30))
    report = PassReport(name="a_pass", changed=False, before=BEFORE, after=BEFORE, relative_error=0.0, skipped=reason)
    say_passes([report])
    assert f"skipped: it {reason}" in " ".join(capfd.readouterr().err.replace("a_pass", "").split())


def test_without_passes_there_is_no_table(capfd: pytest.CaptureFixture[str]) -> None:
    say_passes([])
    assert capfd.readouterr().err == ""
