"""The five large craft: VenusExpress, LisaPathfinder, ObservationSat1, Soho, XMM Newton. Lengths are metres.

Sizes follow ESA's public fact sheets for Venus Express, LISA Pathfinder, SOHO and XMM-Newton; ObservationSat1 is a
generic Earth observer with a SAR antenna, an optical telescope and one large wing.
"""

from __future__ import annotations

import numpy as np

from spacecompile.data.render.craft import AXIS_X, AXIS_Y, AXIS_Z, MINUS_X, MINUS_Y, MINUS_Z, Floats, Piece, rotated
from spacecompile.data.render.solids import baffle, block, dish, lathe, plate, prism, rod, thruster, tube, wing
from spacecompile.data.spark import PANEL_BIT


def venus_express(wing_angle_rad: float) -> list[Piece]:
    """A gold box of 1.65 x 1.7 x 1.4 m, two wings of two panels, one big dish and one small one."""
    pieces = [
        block((1.65, 1.70, 1.40), "gold_foil", (0, 0, 0)),
        plate((1.30, 1.10), "radiator", (0, 0.86, -0.05), z=AXIS_Y, x=AXIS_X),
        plate((1.30, 1.10), "radiator", (0, -0.86, -0.05), z=MINUS_Y, x=AXIS_X),
        plate((1.20, 1.10), "black_foil", (-0.835, 0, 0), z=MINUS_X, x=AXIS_Y),
        *dish(0.65, 0.20, (0.93, 0, 0.05), z=AXIS_X),
        tube(0.22, 0.16, "black_foil", (0.80, 0, 0.05), z=AXIS_X),
        *dish(0.19, 0.06, (-0.45, 0.40, 0.80), z=AXIS_Z),
        rod((-0.45, 0.40, 0.68), (-0.45, 0.40, 0.82), 0.04, "aluminium"),
        block((0.55, 0.45, 0.26), "black_foil", (0.30, -0.40, 0.80)),
        block((0.40, 0.40, 0.20), "silver_foil", (0.35, 0.35, 0.78)),
        *baffle(0.10, 0.24, "black_foil", (0.30, -0.40, 0.92), z=AXIS_Z),
        *baffle(0.07, 0.20, "black_paint", (-0.25, -0.60, 0.70), z=(-0.6, -0.3, 1), mouth_radius_m=0.12),
        *baffle(0.07, 0.20, "black_paint", (-0.60, -0.30, 0.70), z=(-0.8, 0.1, 1), mouth_radius_m=0.12),
        tube(0.47, 0.12, "aluminium", (0, 0, -0.82), sections=40),
        *baffle(0.09, 0.42, "aluminium", (0, 0, -0.80), z=MINUS_Z, mouth_radius_m=0.20),
        rod((-0.7, 0.6, 0.7), (-0.7, 0.6, 1.75), 0.018, "white_paint"),
    ]
    for x in (-0.75, 0.75):
        for y in (-0.78, 0.78):
            pieces += thruster((x, y, -0.72), z=(x * 0.4, y * 0.4, -1), size_m=0.14)
    normal = rotated(AXIS_X, AXIS_Y, wing_angle_rad)
    for out in (AXIS_Y, MINUS_Y):
        pieces += wing(
            np.asarray(out) * 0.85,
            out=out,
            normal=normal,
            num_panels=2,
            panel_xy_m=(1.25, 1.15),
            yoke_m=0.55,
            cells="dark_cells",
            back="beige_back",
        )
    return pieces


def _up(height_m: float) -> Floats:
    return np.array([0.0, 0.0, height_m])


def lisa_pathfinder() -> list[Piece]:
    """A flat octagonal drum, 2.1 m across and 1 m high, under a round sunshield of solar cells."""
    cells = prism(8, 1.12, 0.05, "beige_back", (0, 0, 0.52), front="dark_cells", part_bit=PANEL_BIT)
    pieces = [
        cells,
        prism(8, 1.02, 0.94, "gold_foil", (0, 0, -0.44)),
        prism(8, 0.96, 0.05, "black_foil", (0, 0, -0.49)),
        tube(0.48, 0.14, "aluminium", (0, 0, -0.63), top_radius_m=0.60),
        lathe([(0.40, 0), (0.48, 0), (0.48, 0.04), (0.40, 0.04)], "aluminium", (0, 0, -0.66)),
        tube(0.30, 0.12, "amber_foil", (0, 0, -0.62)),
        rod((0.30, 0.25, 0.56), (0.30, 0.25, 0.72), 0.05, "white_paint"),
    ]
    for side in range(8):
        angle_rad = (side + 0.5) * np.pi / 4
        normal = rotated(AXIS_X, AXIS_Z, angle_rad)
        sideways = rotated(AXIS_Y, AXIS_Z, angle_rad)
        middle = normal * 0.945
        if side % 4 == 0:
            pieces.append(plate((0.62, 0.60), "radiator", middle + _up(0.02), z=normal, x=sideways))
        elif side % 4 == 1:
            pieces.append(block((0.34, 0.26, 0.18), "amber_foil", middle + _up(0.15), z=normal))
            for lift in (-0.10, 0.10):
                pieces += thruster(
                    middle + normal * 0.09 + sideways * lift + _up(0.15),
                    z=normal + sideways * lift * 6 - np.array([0, 0, 0.4]),
                    size_m=0.13,
                )
        elif side % 4 == 2:
            pieces.append(plate((0.50, 0.44), "silver_foil", middle + _up(-0.05), z=normal, x=sideways))
            pieces += dish(0.16, 0.04, middle + normal * 0.06 + _up(-0.05), z=normal)
        else:
            pieces.append(block((0.40, 0.36, 0.16), "black_foil", middle + _up(-0.10), z=normal))
            pieces += baffle(
                0.06, 0.16, "black_paint", middle + normal * 0.06 + _up(0.2), z=normal, mouth_radius_m=0.10
            )
    return pieces


def observation_sat1(wing_angle_rad: float) -> list[Piece]:
    """A 4.5 m long Earth observer: SAR slab below, a telescope, one large wing on one side."""
    pieces = [
        block((4.50, 1.40, 1.30), "silver_foil", (0, 0, 0)),
        block((1.40, 1.44, 1.34), "gold_foil", (-1.45, 0, 0)),
        block((5.60, 1.10, 0.10), "white_paint", (0.1, 0, -0.98)),
        block((5.50, 1.02, 0.08), "carbon", (0.1, 0, -0.90)),
        plate((1.30, 0.90), "radiator", (0.9, 0.71, 0.05), z=AXIS_Y, x=AXIS_X),
        plate((1.10, 0.80), "black_foil", (-0.2, -0.71, 0.05), z=MINUS_Y, x=AXIS_X),
        *baffle(0.46, 0.85, "black_foil", (1.70, 0, 0.50), z=AXIS_Z),
        lathe([(0, 0), (0.50, 0), (0.50, 0.03), (0, 0.03)], "silver_foil", (1.20, 0, 1.60), z=(-1, 0, 0.25)),
        block((0.60, 0.60, 0.40), "gold_foil", (0.3, 0.2, 0.85)),
        *dish(0.30, 0.09, (-0.90, -0.2, 0.85), z=(-0.3, 0, 1)),
        rod((-0.90, -0.2, 0.6), (-0.90, -0.2, 0.86), 0.05, "aluminium"),
        *baffle(0.08, 0.26, "black_paint", (-1.6, -0.40, 0.66), z=(-0.4, -0.6, 1), mouth_radius_m=0.13),
        *baffle(0.08, 0.26, "black_paint", (-1.9, -0.10, 0.66), z=(-0.8, -0.2, 1), mouth_radius_m=0.13),
        tube(0.40, 0.14, "aluminium", (-2.40, 0, 0), z=AXIS_X, sections=32),
        *thruster((-2.25, 0.35, 0.35), z=MINUS_X, size_m=0.16),
        *thruster((-2.25, -0.35, 0.35), z=MINUS_X, size_m=0.16),
        rod((2.2, -0.6, 0.6), (2.6, -0.9, 1.6), 0.02, "white_paint"),
    ]
    for x in (-1.8, -0.6, 0.6, 1.8):
        pieces.append(rod((x, 0, -0.65), (x, 0, -0.90), 0.05, "carbon"))
    normal = rotated(AXIS_Z, AXIS_Y, wing_angle_rad)
    pieces += wing(
        (-0.6, 0.70, 0.25),
        out=AXIS_Y,
        normal=normal,
        num_panels=4,
        panel_xy_m=(1.60, 2.20),
        yoke_m=1.30,
        cells="blue_cells",
        back="beige_back",
    )
    return pieces


def soho(wing_angle_rad: float) -> list[Piece]:
    """A tall service module below a cluster of Sun-pointing instruments, wings 9.5 m tip to tip, a dish on a boom."""
    pieces = [
        block((2.20, 2.00, 1.20), "black_foil", (0, 0, -1.10)),
        block((1.70, 1.60, 2.10), "gold_foil", (0, 0, 0.50)),
        plate((1.40, 0.80), "radiator", (0, 1.01, -1.10), z=AXIS_Y, x=AXIS_X),
        plate((1.40, 0.80), "radiator", (0, -1.01, -1.10), z=MINUS_Y, x=AXIS_X),
        block((0.55, 2.40, 0.60), "gold_foil", (1.00, 0, 0.70)),
        block((0.60, 0.55, 2.30), "silver_foil", (-1.05, 0.45, 0.60)),
        block((0.50, 0.60, 1.90), "gold_foil", (-1.00, -0.45, 0.45)),
        block((0.60, 0.50, 1.60), "black_foil", (0.30, 1.00, 0.55)),
        block((0.70, 0.46, 2.00), "silver_foil", (-0.20, -1.00, 0.65)),
        block((1.50, 1.40, 0.08), "white_paint", (0, 0, 1.58)),
        *baffle(0.24, 0.50, "black_foil", (0.40, 0.30, 1.60), z=AXIS_Z),
        *baffle(0.16, 0.36, "gold_foil", (-0.35, 0.35, 1.60), z=AXIS_Z),
        *baffle(0.19, 0.42, "silver_foil", (0.05, -0.40, 1.60), z=AXIS_Z),
        tube(0.14, 0.30, "aluminium", (-1.05, 0.45, 1.74)),
        tube(0.60, 0.16, "aluminium", (0, 0, -1.86), sections=36),
        rod((0.6, 0, -1.6), (1.7, 0, -2.45), 0.05, "white_paint"),
        *dish(0.42, 0.13, (1.75, 0, -2.50), z=(0.35, 0, -1)),
        rod((-0.9, 0.8, -1.7), (-1.3, 1.1, -2.6), 0.02, "white_paint"),
    ]
    for x in (-0.95, 0.95):
        for y in (-0.85, 0.85):
            pieces += thruster((x, y, -1.72), z=(x * 0.3, y * 0.3, -1), size_m=0.17)
    normal = rotated(AXIS_Z, AXIS_Y, wing_angle_rad)
    for out in (AXIS_Y, MINUS_Y):
        root = np.asarray(out) * 1.0 + np.array([0, 0, -1.05])
        pieces += wing(
            root,
            out=out,
            normal=normal,
            num_panels=2,
            panel_xy_m=(1.55, 2.30),
            yoke_m=0.62,
            cells="blue_cells",
            back="white_back",
        )
    return pieces


def xmm_newton(wing_angle_rad: float) -> list[Piece]:
    """A 10 m telescope tube from a dark mirror bus with a sunshield to a focal-plane box; wings 16 m tip to tip."""
    pieces = [
        tube(0.95, 5.60, "carbon", (0, 0, -3.60), top_radius_m=1.20, sections=48),
        tube(0.97, 0.22, "aluminium", (0, 0, -1.90), top_radius_m=0.98, sections=48),
        tube(1.20, 0.08, "silver_foil", (0, 0, 1.80), sections=48),
        prism(8, 1.78, 1.15, "black_foil", (0, 0, 2.00)),
        prism(8, 1.62, 0.07, "gold_foil", (0, 0, 3.15)),
        tube(1.15, 0.45, "black_foil", (0, 0, 3.15), sections=48),
        block((2.00, 1.90, 1.00), "black_foil", (0, 0, -3.95)),
        block((1.50, 1.50, 0.40), "gold_foil", (0, 0, -4.60)),
        plate((1.30, 0.80), "radiator", (0, 0.96, -3.95), z=AXIS_Y, x=AXIS_X),
        plate((1.30, 0.80), "white_paint", (0, -0.96, -3.95), z=MINUS_Y, x=AXIS_X),
        *baffle(0.40, 0.70, "silver_foil", (-0.95, 0.35, -3.90), z=(-1, 0, -0.25), mouth_radius_m=0.52),
        *baffle(0.30, 0.55, "white_paint", (-0.95, -0.50, -3.90), z=(-1, 0, -0.25), mouth_radius_m=0.40),
        block((0.16, 2.40, 2.60), "white_paint", (1.72, 0, 3.20)),
        rod((1.2, 0.9, 2.2), (1.70, 0.9, 3.6), 0.05, "aluminium"),
        rod((1.2, -0.9, 2.2), (1.70, -0.9, 3.6), 0.05, "aluminium"),
        rod((-1.6, 0.4, 2.9), (-2.1, 0.6, 4.1), 0.025, "white_paint"),
        tube(0.06, 4.9, "aluminium", (0.98, 0.55, -3.40), z=(0.03, 0, 1), sections=10),
        tube(0.06, 4.9, "aluminium", (0.98, -0.55, -3.40), z=(0.03, 0, 1), sections=10),
    ]
    for x, y in ((0.40, 0.34), (-0.40, 0.34), (0.0, -0.44)):
        pieces += baffle(0.36, 0.55, "gold_foil", (x, y, 3.60), z=AXIS_Z)
    normal = rotated(AXIS_X, AXIS_Y, wing_angle_rad)
    for out in (AXIS_Y, MINUS_Y):
        root = np.asarray(out) * 1.62 + np.array([0, 0, 2.55])
        pieces += wing(
            root,
            out=out,
            normal=normal,
            num_panels=3,
            panel_xy_m=(1.85, 1.75),
            yoke_m=0.70,
            cells="blue_cells",
            back="carbon",
        )
    return pieces
