"""The ten spacecraft of the SPARK classes, built once per class and wing angle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spacecompile.data.render import fleet_large, fleet_small
from spacecompile.data.render.craft import AXIS_X, AXIS_Y, AXIS_Z, Craft, Piece, assemble, rotated

# Wings turn in these steps, so that each craft's mesh is built at most this often per process.
NUM_WING_STEPS: Final = 8

_TURNING: Final[Mapping[str, Callable[[float], list[Piece]]]] = MappingProxyType(
    {
        "VenusExpress": fleet_large.venus_express,
        "ObservationSat1": fleet_large.observation_sat1,
        "Smart1": fleet_small.smart1,
        "Soho": fleet_large.soho,
        "XMM Newton": fleet_large.xmm_newton,
    }
)
_FIXED: Final[Mapping[str, Callable[[], list[Piece]]]] = MappingProxyType(
    {
        "Cheops": fleet_small.cheops,
        "LisaPathfinder": fleet_large.lisa_pathfinder,
        "Proba2": fleet_small.proba2,
        "Proba3": fleet_small.proba3_coronagraph,
        "Proba3ocs": fleet_small.proba3_occulter,
    }
)


# What the cells face at step 0; every wing turns about the craft's y axis.
_CELL_NORMAL: Final[Mapping[str, tuple[float, float, float]]] = MappingProxyType(
    {
        "VenusExpress": AXIS_X,
        "ObservationSat1": AXIS_Z,
        "Smart1": AXIS_Z,
        "Soho": AXIS_Z,
        "XMM Newton": AXIS_X,
    }
)


@cache
def build_craft(class_name: str, wing_step: int) -> Craft:
    """Builds one craft.

    Args:
        class_name: Class of the craft, one of `SPARK_CLASSES`.
        wing_step: Turn of the solar wings about their drive axis in steps of 360 / `NUM_WING_STEPS` degrees;
            craft with fixed panels ignore it.
    """
    if class_name in _FIXED:
        return assemble(class_name, _FIXED[class_name]())
    return assemble(class_name, _TURNING[class_name](_wing_angle_rad(wing_step)))


def sun_wing_step(class_name: str, sun_X: NDArray[np.float32]) -> int:
    """Wing step that turns the cells most nearly to the Sun; 0 for craft with fixed panels.

    Args:
        class_name: Class of the craft, one of `SPARK_CLASSES`.
        sun_X: Unit direction to the Sun, craft frame.
    """
    if class_name in _FIXED:
        return 0
    towards = [
        float(rotated(_CELL_NORMAL[class_name], AXIS_Y, _wing_angle_rad(step)) @ sun_X)
        for step in range(NUM_WING_STEPS)
    ]
    return int(np.argmax(towards))


def _wing_angle_rad(wing_step: int) -> float:
    return float(2 * np.pi * wing_step / NUM_WING_STEPS)
