from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from spacecompile.errors import MissingPartError, UsageError
from spacecompile.machine import doctor
from spacecompile.machine.doctor import Check, Checkup, Purpose, examine, require_working


def row(checkup: Checkup, name: str) -> Check:
    return next(check for check in checkup.checks if check.name == name)


def test_running_needs_the_base_and_nothing_else() -> None:
    steps = []
    checkup = examine("run", progress=lambda *step: steps.append(step))
    assert checkup.ok
    required = {check.name for check in checkup.checks if check.required}
    assert required == {"Python", "base install", "backend onnxruntime"}
    assert {check.group for check in checkup.checks} == {"base", "machine"}
    assert steps[-1] == ("doctor", len(checkup.checks), len(checkup.checks))
    require_working(checkup)


def test_the_machine_is_described() -> None:
    checkup = examine("run")
    assert "physical usable" in row(checkup, "cores").found
    assert row(checkup, "CPU").found
    assert "GB free" in row(checkup, "disk").found
    assert row(checkup, "CUDA driver").found
    for check in checkup.checks:
        assert check.state == "ok" or check.remedy or check.state == "note"


def test_a_backend_that_crashes_is_a_row_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime.py").write_text("import ctypes; ctypes.string_at(0)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    checkup = examine("run")
    check = row(checkup, "backend onnxruntime")
    assert (check.state, check.fails, checkup.ok) == ("broken", True, False)
    assert "crashes with SIGSEGV" in check.found
    assert check.remedy == "pip install --force-reinstall onnxruntime"
    with pytest.raises(MissingPartError, match=r"backend onnxruntime is broken .*pip install --force-reinstall"):
        require_working(checkup)


def test_an_extra_that_is_missing_fails_the_purpose_that_needs_it(
    installed_metadata: Callable[..., None],
) -> None:
    installed_metadata("numpy", "no-such-thing ; extra == 'compile'", "numpy<1 ; extra == 'train'")
    build, train, run = examine("build"), examine("train"), examine("run")
    missing, outdated = row(build, "extra compile"), row(train, "extra train")
    assert (missing.state, missing.remedy) == ("missing", "pip install 'spacecompile[compile]'")
    assert "no-such-thing" in missing.found
    assert (outdated.state, outdated.remedy) == ("broken", "pip install --upgrade 'spacecompile[train]'")
    assert (build.ok, train.ok, run.ok) == (False, False, True)


def test_an_extra_whose_packages_are_there_but_broken_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trimesh.py").write_text("raise ImportError('libodd.so: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(doctor._NEEDS, "run", ("extra render",))
    check = row(examine("run"), "extra render")
    assert (check.state, check.remedy) == ("broken", "pip install --force-reinstall 'spacecompile[render]'")
    assert "libodd.so" in check.found


def test_every_purpose_needs_parts_that_are_looked_at() -> None:
    assert set(doctor._NEEDS) == set(get_args(Purpose))
    parts = doctor._parts()
    for needs in doctor._NEEDS.values():
        assert set(needs) <= set(parts)


def test_an_unknown_purpose_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'fly'.*tensorrt-rtx"):
        examine("fly")


def test_a_cache_folder_that_can_not_be_made_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert doctor._cache(tmp_path / "file" / "cache")[0] == "note"
    state, found, _ = doctor._cache(tmp_path / "new" / "cache")
    assert (state, "can be written" in found) == ("ok", True)
    assert not (tmp_path / "new").exists()
    assert doctor._cache(Path("~/cache"))[0] == "note"
