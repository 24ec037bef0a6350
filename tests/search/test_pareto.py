from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacecompile.search.pareto import Point, frontier_of, knee_of


@pytest.mark.parametrize(
    ("points", "frontier"),
    [
        pytest.param([], (), id="nothing"),
        pytest.param([(0.5, 0.5)], (0,), id="one"),
        pytest.param([(0.9, 0.1), (0.1, 0.9)], (0, 1), id="each is best in one score"),
        pytest.param([(0.9, 0.9), (0.1, 0.1)], (0,), id="beaten in both"),
        pytest.param([(0.5, 0.5), (0.5, 0.5)], (0,), id="equal points count once"),
        pytest.param([(0.5, 0.4), (0.5, 0.6)], (1,), id="beaten in one, equal in the other"),
        pytest.param([(0.2, 0.9), (0.9, 0.2), (0.7, 0.7), (0.6, 0.6)], (1, 2, 0), id="in order of accuracy"),
    ],
)
def test_frontier(points: list[Point], frontier: tuple[int, ...]) -> None:
    assert frontier_of(points) == frontier


SCORES = st.integers(0, 6).map(lambda value: value / 6)


@given(st.lists(st.tuples(SCORES, SCORES), max_size=12))
def test_the_frontier_is_what_no_other_point_dominates(points: list[Point]) -> None:
    def dominated(point: Point) -> bool:
        return any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points)

    assert {points[index] for index in frontier_of(points)} == {point for point in points if not dominated(point)}


@pytest.mark.parametrize(
    ("points", "knee"),
    [
        pytest.param([(0.9, 0.1), (0.1, 0.9)], None, id="two points have none"),
        pytest.param([(1.0, 0.0), (0.9, 0.8), (0.0, 1.0)], 1, id="the one that bends out"),
        pytest.param([(1.0, 0.0), (0.3, 0.2), (0.0, 1.0)], None, id="only inwards"),
        pytest.param([(1.0, 0.0), (0.9, 0.3), (0.8, 0.85), (0.3, 0.9), (0.0, 1.0)], 2, id="the farthest of several"),
        pytest.param([(0.99, 0.60), (0.985, 0.88), (0.95, 0.90)], 1, id="scores of unlike spread"),
    ],
)
def test_knee(points: list[Point], knee: int | None) -> None:
    assert knee_of(points, frontier_of(points)) == knee
