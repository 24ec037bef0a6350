"""The ten spacecraft of the SPARK classes, built once per class and wing angle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import numpy as np

from spacecompile.data.render import fleet_large, fleet_small
from spacecompile.data.render.craft import Craft, Piece, assemble

# Wings turn in these steps, so that each craft's mesh is built at most this often per process.
NUM_WING_ANGLES: Final = 6

_TURNING: Final[Mapping[str, Callable[[float], list[Piece]]]] = MappingProxyType({
    "VenusExpress": fleet_large.venus_express,
    "ObservationSat1": fleet_large.observation_sat1,
    "Smart1": fleet_small.smart1,
    "Soho": fleet_large.soho,
    "XMM Newton": fleet_large.xmm_newton,
})
_FIXED: Final[Mapping[str, Callable[[], list[Piece]]]] = MappingProxyType({
    "Cheops": fleet_small.cheops,
    "LisaPathfinder": fleet_large.lisa_pathfinder,
    "Proba2": fleet_small.proba2,
    "Proba3": fleet_small.proba3_coronagraph,
    "Proba3ocs": fleet_small.proba3_occulter,
})


@lru_cache(maxsize=None)
def build_craft(class_name: str, wing_step: int) -> Craft:
    """Builds one craft.

    Args:
        class_name: One of `SPARK_CLASSES`.
        wing_step: Turn of the solar wings about their drive axis in steps of 180 / `NUM_WING_ANGLES` degrees,
            from -90; craft with fixed panels ignore it.
    """
    if class_name in _FIXED:
        return assemble(class_name, _FIXED[class_name]())
    return assemble(class_name, _TURNING[class_name](np.pi * (wing_step / NUM_WING_ANGLES - 0.5)))
