from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spacecompile.machine.requirements import Requirements, python_range, read_requirements


def met(found: Requirements) -> bool:
    return found.known and not found.missing and not found.too_old


def test_the_base_of_this_environment_is_met() -> None:
    base = read_requirements()
    assert met(base)
    assert base.versions["numpy"] == np.__version__
    assert "torch" not in base.versions


def test_an_extra_is_what_it_adds_to_the_base() -> None:
    compile_ = read_requirements("compile")
    assert met(compile_)
    assert {"torch", "timm", "onnx"} <= compile_.versions.keys()
    assert "typer" not in compile_.versions


def test_an_unknown_extra_is_not_met() -> None:
    unknown = read_requirements("warp-drive")
    assert (unknown.known, met(unknown)) == (False, False)


def test_what_is_missing_or_out_of_range_is_named(installed_metadata: Callable[..., None]) -> None:
    installed_metadata("numpy>=1", "numpy<1 ; extra == 'old'", "no-such-thing>=2 ; extra == 'gone'")
    assert met(read_requirements())
    old, gone = read_requirements("old"), read_requirements("gone")
    assert old.too_old == (f"numpy {np.__version__}, needed <1",)
    assert gone.missing == ("no-such-thing",)
    assert not met(old) and not met(gone)


def test_a_requirement_of_another_system_is_not_demanded(installed_metadata: Callable[..., None]) -> None:
    installed_metadata("no-such-thing ; sys_platform == 'beos' and extra == 'far'", "numpy ; extra == 'far'")
    assert met(read_requirements("far"))


def test_a_version_before_its_release_counts_as_new_enough(installed_metadata: Callable[..., None]) -> None:
    installed_metadata("fresh>=2 ; extra == 'new'")
    installed_metadata(name="fresh", version="3.0rc1")
    assert met(read_requirements("new"))


def test_the_python_range_comes_from_the_metadata() -> None:
    assert python_range() == ">=3.11"
