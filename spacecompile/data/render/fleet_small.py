"""The five small craft: Cheops, Proba2, Proba3, Proba3ocs, Smart1. Lengths are metres.

Sizes follow ESA's public fact sheets for CHEOPS, PROBA-2, PROBA-3 and SMART-1.
"""

from __future__ import annotations

import numpy as np

from spacecompile.data.render.craft import AXIS_X, AXIS_Y, AXIS_Z, MINUS_X, MINUS_Y, MINUS_Z, Piece, rotated
from spacecompile.data.render.solids import baffle, block, lathe, plate, prism, rod, solar_panel, thruster, tube, wing


def cheops() -> list[Piece]:
    """Hexagonal bus under a telescope tube with an open lid; three body panels form the sunshield."""
    pieces = [
        prism(6, 0.78, 0.85, "gold_foil", (0, 0, 0), front="black_foil"),
        prism(6, 0.66, 0.10, "aluminium", (0, 0, -0.10)),
        tube(0.42, 0.16, "aluminium", (0, 0, -0.26), sections=32),
        tube(0.30, 0.35, "black_foil", (0, 0, 0.85), top_radius_m=0.24),
        *baffle(0.24, 0.62, "black_foil", (0, 0, 1.20)),
        tube(0.27, 0.04, "silver_foil", (0, 0, 1.30)),
        lathe([(0, 0), (0.30, 0), (0.30, 0.03), (0, 0.03)], "gold_foil", (-0.30, 0, 2.10), z=(1, 0, 0.35)),
        rod((-0.24, 0, 1.80), (-0.30, 0, 1.84), 0.03, "aluminium"),
        block((0.34, 0.30, 0.36), "black_foil", (-0.42, 0.30, 1.03)),
        block((0.34, 0.24, 0.30), "gold_foil", (-0.42, -0.30, 1.00)),
        plate((0.52, 0.55), "radiator", (-0.69, 0, 0.42), z=MINUS_X, x=AXIS_Y),
    ]
    for y in (-0.18, 0.18):
        pieces += baffle(0.075, 0.26, "black_paint", (-0.45, y, 1.15), z=(-0.5, y, 1.0), mouth_radius_m=0.11)
    for angle_rad in (-np.pi / 3, 0.0, np.pi / 3):
        normal = rotated(AXIS_X, AXIS_Z, angle_rad)
        sideways = rotated(AXIS_Y, AXIS_Z, angle_rad)
        pieces.append(
            solar_panel(
                (0.80, 1.72),
                normal * 0.74 + np.array([0, 0, 0.62]),
                z=normal,
                x=sideways,
                cells="dark_cells",
                back="beige_back",
            )
        )
        for height in (0.25, 0.75):
            pieces.append(rod(normal * 0.60 + [0, 0, height], normal * 0.74 + [0, 0, height], 0.03, "aluminium"))
    for x, y in ((0.45, 0.45), (-0.45, 0.45), (0.45, -0.45), (-0.45, -0.45)):
        pieces += thruster((x, y, -0.10), z=MINUS_Z, size_m=0.10)
    return pieces


def proba2() -> list[Piece]:
    """A suitcase-sized box with two small deployed panels, a body panel and two telescopes on the Sun side."""
    pieces = [
        block((0.60, 0.70, 0.85), "black_foil", (0, 0, 0)),
        solar_panel((0.62, 0.78), (0.315, 0, 0), z=AXIS_X, x=AXIS_Y, cells="blue_cells", back="beige_back"),
        plate((0.50, 0.50), "radiator", (0, 0, -0.43), z=MINUS_Z, x=AXIS_X),
        plate((0.46, 0.66), "gold_foil", (-0.305, 0, 0), z=MINUS_X, x=AXIS_Y),
        block((0.56, 0.66, 0.06), "gold_foil", (0, 0, 0.45)),
        *baffle(0.075, 0.24, "aluminium", (0.10, 0.20, 0.47), z=AXIS_Z),
        *baffle(0.055, 0.20, "gold_foil", (0.10, -0.18, 0.47), z=AXIS_Z),
        *baffle(0.06, 0.18, "black_paint", (-0.31, 0.15, 0.20), z=(-1, 0.3, 0.4), mouth_radius_m=0.10),
        *baffle(0.06, 0.18, "black_paint", (-0.31, -0.15, 0.20), z=(-1, -0.3, 0.4), mouth_radius_m=0.10),
        tube(0.18, 0.06, "aluminium", (0, 0, -0.49), sections=24),
        *thruster((-0.18, 0.0, -0.46), z=MINUS_Z, size_m=0.10),
        rod((-0.2, 0.3, 0.46), (-0.35, 0.45, 0.80), 0.012, "white_paint"),
        rod((0.2, -0.3, -0.43), (0.30, -0.45, -0.78), 0.012, "white_paint"),
    ]
    for side in (-1.0, 1.0):
        pieces.append(
            solar_panel((0.62, 0.80), (0.30, side * 0.74, 0), z=AXIS_X, x=AXIS_Y, cells="blue_cells", back="white_back")
        )
        for height in (-0.25, 0.25):
            pieces.append(rod((0.28, side * 0.34, height), (0.28, side * 0.45, height), 0.02, "aluminium"))
    return pieces


def proba3_coronagraph() -> list[Piece]:
    """A cuboid with a long coronagraph tube along its side and one flat array of two panels fixed over it."""
    pieces = [
        block((1.10, 1.50, 1.30), "gold_foil", (0, 0, 0)),
        plate((0.90, 1.10), "radiator", (0, 0.76, 0), z=AXIS_Y, x=AXIS_X),
        plate((0.80, 1.00), "white_paint", (0, -0.76, 0), z=MINUS_Y, x=AXIS_X),
        *baffle(0.20, 1.75, "black_foil", (-0.72, 0.0, -0.70), z=AXIS_Z),
        tube(0.235, 0.06, "aluminium", (-0.72, 0.0, 0.10)),
        tube(0.235, 0.06, "aluminium", (-0.72, 0.0, -0.50)),
        block((0.30, 0.55, 0.50), "black_foil", (-0.62, 0.0, -0.45)),
        block((0.44, 0.40, 0.30), "silver_foil", (0.15, 0.40, 0.78)),
        *baffle(0.07, 0.24, "black_paint", (0.20, -0.40, 0.65), z=(-0.3, -0.5, 1), mouth_radius_m=0.12),
        *baffle(0.07, 0.24, "black_paint", (-0.10, -0.45, 0.65), z=(0.4, -0.5, 1), mouth_radius_m=0.12),
        tube(0.33, 0.10, "aluminium", (0, 0, -0.75), sections=32),
        rod((0.40, 0.60, -0.65), (0.50, 0.85, -1.05), 0.014, "white_paint"),
        rod((0.40, -0.60, 0.65), (0.50, -0.85, 1.05), 0.014, "white_paint"),
        rod((0.45, 0, 0.62), (0.45, 0, 0.98), 0.05, "aluminium"),
        rod((0.45, 0, 0.62), (0.75, 0, 0.98), 0.03, "aluminium"),
    ]
    for side in (-1.0, 1.0):
        pieces.append(
            solar_panel((1.30, 1.25), (0.30, side * 0.68, 1.02), z=AXIS_Z, x=AXIS_X, cells="dark_cells", back="carbon")
        )
    for x in (-0.48, 0.48):
        for y in (-0.68, 0.68):
            pieces += thruster((x, y, -0.66), z=(x * 0.5, y * 0.5, -1), size_m=0.11)
    return pieces


def proba3_occulter() -> list[Piece]:
    """The 1.4 m occulting disc with its knife rim, on a small box with a body-mounted panel behind."""
    pieces = [
        lathe(
            [(0, 0), (0.70, 0), (0.71, 0.025), (0.70, 0.05), (0, 0.05)],
            "black_paint",
            (0, 0, 0.42),
            front="black_foil",
            sections=96,
        ),
        lathe([(0.68, 0.0), (0.73, 0.02), (0.73, 0.04), (0.68, 0.06)], "white_paint", (0, 0, 0.41), sections=96),
        block((0.86, 0.88, 0.84), "gold_foil", (0, 0, -0.02)),
        solar_panel((0.98, 0.98), (0, 0, -0.50), z=MINUS_Z, x=AXIS_X, cells="dark_cells", back="beige_back"),
        plate((0.66, 0.60), "radiator", (0, 0.45, -0.05), z=AXIS_Y, x=AXIS_X),
        plate((0.60, 0.60), "silver_foil", (0, -0.45, -0.05), z=MINUS_Y, x=AXIS_X),
        *baffle(0.06, 0.20, "black_paint", (0.43, 0.18, 0.0), z=(1, 0.4, -0.2), mouth_radius_m=0.10),
        *baffle(0.06, 0.20, "black_paint", (0.43, -0.18, 0.0), z=(1, -0.4, -0.2), mouth_radius_m=0.10),
        block((0.14, 0.24, 0.26), "white_paint", (-0.48, 0, 0.05)),
        rod((-0.43, 0.30, -0.2), (-0.75, 0.52, -0.5), 0.013, "white_paint"),
        rod((0.43, -0.30, -0.2), (0.75, -0.52, -0.5), 0.013, "white_paint"),
    ]
    for x in (-0.40, 0.40):
        for y in (-0.42, 0.42):
            pieces += thruster((x, y, -0.30), z=(x, y, 0), size_m=0.09)
    return pieces


def smart1(wing_angle_rad: float) -> list[Piece]:
    """A one metre cube between two wings of three panels, 14 m tip to tip, and an ion engine below."""
    pieces = [
        block((1.15, 1.15, 0.95), "gold_foil", (0, 0, 0)),
        plate((0.95, 0.80), "radiator", (0.585, 0, 0), z=AXIS_X, x=AXIS_Y),
        plate((0.95, 0.80), "black_foil", (-0.585, 0, 0), z=MINUS_X, x=AXIS_Y),
        block((1.00, 1.00, 0.10), "black_foil", (0, 0, 0.52)),
        tube(0.30, 0.09, "aluminium", (0, 0, -0.56), sections=32),
        tube(0.15, 0.16, "aluminium", (0, 0, -0.72), sections=32),
        *baffle(0.11, 0.10, "white_paint", (0, 0, -0.72), z=MINUS_Z, inner="copper", mouth_radius_m=0.13),
        *baffle(0.08, 0.22, "gold_foil", (0.30, 0.25, 0.55), z=AXIS_Z),
        block((0.26, 0.20, 0.22), "silver_foil", (-0.25, 0.28, 0.66)),
        block((0.34, 0.22, 0.14), "white_paint", (0.10, -0.34, 0.62)),
        *baffle(0.07, 0.20, "black_paint", (-0.30, -0.2, 0.57), z=(-0.6, -0.4, 1), mouth_radius_m=0.11),
        rod((0.55, 0.5, 0.45), (0.95, 0.75, 1.00), 0.014, "white_paint"),
        rod((-0.55, -0.5, -0.45), (-0.95, -0.75, -1.00), 0.014, "white_paint"),
        prism(4, 0.12, 0.05, "white_paint", (-0.60, 0.30, 0.2), z=MINUS_X),
    ]
    normal = rotated(AXIS_Z, AXIS_Y, wing_angle_rad)
    for out in (AXIS_Y, MINUS_Y):
        root = np.asarray(out) * 0.575
        pieces += wing(
            root,
            out=out,
            normal=normal,
            num_panels=3,
            panel_xy_m=(1.82, 0.90),
            yoke_m=0.85,
            cells="violet_cells",
            back="carbon",
        )
    return pieces
