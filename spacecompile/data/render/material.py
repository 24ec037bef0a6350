"""Surface materials: what each one reflects, linear RGB.

Albedos are rough visual averages of published hardware (aluminised Kapton, beta cloth, Z-93 white paint,
CFRP, triple-junction cells under cover glass), not measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

RGB: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Material:
    """How a surface reflects sunlight.

    Attributes:
        name: Name that the fleet uses.
        diffuse_rgb: Lambert albedo, linear.
        specular_rgb: Reflectance at normal incidence, linear.
        gloss: Blinn-Phong exponent; higher is sharper.
        crinkle: Slope of foil wrinkles; 0 is flat.
        is_cells: Whether solar cells are drawn on it.
    """

    name: str
    diffuse_rgb: RGB
    specular_rgb: RGB
    gloss: float
    crinkle: float = 0.0
    is_cells: bool = False


def _material(name: str, diffuse: RGB, specular: RGB, gloss: float, crinkle: float = 0.0) -> Material:
    return Material(
        name=name,
        diffuse_rgb=diffuse,
        specular_rgb=specular,
        gloss=gloss,
        crinkle=crinkle,
        is_cells=name.endswith("_cells"),
    )


_MATERIALS: Final = (
    _material("gold_foil", (0.36, 0.20, 0.045), (0.80, 0.53, 0.18), 26.0, 0.42),
    _material("amber_foil", (0.30, 0.13, 0.025), (0.70, 0.38, 0.10), 34.0, 0.38),
    _material("silver_foil", (0.34, 0.34, 0.35), (0.75, 0.75, 0.77), 30.0, 0.40),
    _material("black_foil", (0.022, 0.021, 0.023), (0.11, 0.11, 0.12), 22.0, 0.40),
    _material("white_paint", (0.74, 0.73, 0.70), (0.04, 0.04, 0.04), 14.0, 0.015),
    _material("grey_paint", (0.30, 0.30, 0.31), (0.04, 0.04, 0.04), 16.0, 0.015),
    _material("black_paint", (0.018, 0.018, 0.018), (0.03, 0.03, 0.03), 10.0, 0.0),
    _material("radiator", (0.30, 0.31, 0.33), (0.62, 0.64, 0.66), 160.0, 0.012),
    _material("aluminium", (0.30, 0.30, 0.31), (0.50, 0.50, 0.52), 45.0, 0.03),
    _material("carbon", (0.040, 0.039, 0.041), (0.06, 0.06, 0.06), 30.0, 0.02),
    _material("beige_back", (0.36, 0.31, 0.22), (0.05, 0.05, 0.05), 20.0, 0.02),
    _material("white_back", (0.55, 0.55, 0.54), (0.05, 0.05, 0.05), 16.0, 0.02),
    _material("glass", (0.010, 0.012, 0.020), (0.10, 0.11, 0.14), 400.0, 0.0),
    _material("copper", (0.40, 0.20, 0.11), (0.55, 0.32, 0.20), 40.0, 0.05),
    _material("blue_cells", (0.022, 0.050, 0.175), (0.055, 0.065, 0.11), 220.0, 0.0),
    _material("dark_cells", (0.018, 0.022, 0.060), (0.050, 0.052, 0.070), 260.0, 0.0),
    _material("violet_cells", (0.042, 0.034, 0.140), (0.060, 0.055, 0.10), 200.0, 0.0),
)

_ID_BY_NAME: Final = {material.name: index for index, material in enumerate(_MATERIALS)}

DIFFUSE_M3: Final[NDArray[np.float32]] = np.array([m.diffuse_rgb for m in _MATERIALS], dtype=np.float32)
SPECULAR_M3: Final[NDArray[np.float32]] = np.array([m.specular_rgb for m in _MATERIALS], dtype=np.float32)
GLOSS_M: Final[NDArray[np.float32]] = np.array([m.gloss for m in _MATERIALS], dtype=np.float32)
CRINKLE_M: Final[NDArray[np.float32]] = np.array([m.crinkle for m in _MATERIALS], dtype=np.float32)
IS_CELLS_M: Final[NDArray[np.bool_]] = np.array([m.is_cells for m in _MATERIALS], dtype=np.bool_)


def material_id(name: str) -> int:
    """Row of a material in the tables above."""
    return _ID_BY_NAME[name]
