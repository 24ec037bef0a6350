from __future__ import annotations

import pytest

from spacecompile.contract import no_progress
from spacecompile.export.engine.watch import BuildWatch, run_watched


def percents_of(watch: BuildWatch) -> list[int | None]:
    percents = []
    while not watch.percents.empty():
        percents.append(watch.percents.get())
    return percents


def test_nested_phases_give_one_rising_percentage() -> None:
    watch = BuildWatch()
    watch.start("build", None, 2)
    watch.start("inner", "build", 4)
    assert all(watch.step("inner", step) for step in range(4))
    watch.finish("inner")
    watch.step("build", 0)
    watch.start("inner", "build", 2)
    watch.step("inner", 0)
    watch.finish("inner")
    watch.step("build", 1)
    watch.finish("build")
    assert percents_of(watch) == [12, 25, 37, 50, 75, 100]


def test_phases_that_overlap_or_are_unknown_do_no_harm() -> None:
    watch = BuildWatch()
    watch.start("build", None, 1)
    for name in ("left", "right"):
        watch.start(name, "build", 1)
        assert watch.step(name, 0)
    assert watch.step("never started", 5)
    watch.finish("never started")
    watch.start("empty", "build", 0)
    watch.start("left", "right", 1)
    watch.start("right", "left", 1)
    assert watch.step("right", 0)
    assert percents_of(watch) == [100]


def test_a_build_reports_to_the_thread_that_waits_and_gives_its_result() -> None:
    watch, seen = BuildWatch(), []

    def work() -> str:
        watch.start("build", None, 2)
        watch.step("build", 0)
        watch.step("build", 1)
        return "plan"

    assert run_watched(work, watch, progress=lambda *report: seen.append(report), step="engine") == "plan"
    assert seen == [("engine", 0, 100), ("engine", 50, 100), ("engine", 100, 100), ("engine", 100, 100)]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_ends_the_build_before_it_is_raised(interrupt: type[BaseException]) -> None:
    watch, ended = BuildWatch(), []

    def work() -> None:
        watch.start("build", None, 100)
        watch.step("build", 0)
        watch.cancelled.wait()
        ended.append(watch.step("build", 1))

    def progress(step: str, done: int, total: int) -> None:
        if done:
            raise interrupt

    with pytest.raises(interrupt):
        run_watched(work, watch, progress=progress, step="engine")
    assert ended == [False]


def test_an_error_of_the_build_is_raised_where_it_is_waited_for() -> None:
    def work() -> None:
        raise ValueError("no engine")

    with pytest.raises(ValueError, match="no engine"):
        run_watched(work, BuildWatch(), progress=no_progress, step="engine")
