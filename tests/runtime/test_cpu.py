from __future__ import annotations

from pathlib import Path

import pytest

from spacecompile.runtime.cpu import cpu_features

X86 = "processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(X86, {"fpu", "avx2", "amx_bf16"}), (ARM, {"fp", "asimd", "bf16"}), ("processor\t: 0\n", set())],
    ids=["x86, the first core counts", "ARM", "neither"],
)
def test_the_features_are_those_of_the_kernel(tmp_path: Path, text: str, expected: set[str]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_features(tmp_path / "cpuinfo") == expected


def test_a_system_that_lists_none_has_none(tmp_path: Path) -> None:
    assert cpu_features(tmp_path / "absent") == frozenset()
