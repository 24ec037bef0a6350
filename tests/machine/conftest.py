"""Packages with given metadata, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def installed_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put the metadata of a package where this process finds it before any other of that name, as an installer does."""

    def install(*requirements: str, name: str = "spacecompile", version: str = "9.9") -> None:
        info = tmp_path / "site" / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", "Requires-Python: >=3.11"]
        (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {line}" for line in requirements)]) + "\n")
        monkeypatch.syspath_prepend(info.parent)

    return install
