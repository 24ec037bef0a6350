"""Solids that spacecraft are made of: boxes, plates, panels, wings, tubes, dishes, thrusters.

Lengths are metres. Every solid is built in its own frame, +z its main axis, and placed in the craft frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import trimesh

from spacecompile.data.render.craft import AXIS_Z, Floats, Piece, Vector, placement
from spacecompile.data.render.material import material_id
from spacecompile.data.spark import BODY_BIT, PANEL_BIT

_PANEL_THICKNESS_M: Final = 0.03
_HINGE_GAP_M: Final = 0.06


def _placed(
    mesh: trimesh.Trimesh,
    material: str,
    craft_from_local: Floats,
    *,
    front_material: str | None = None,
    part_bit: int = BODY_BIT,
) -> Piece:
    if mesh.is_watertight and mesh.volume < 0:
        mesh.invert()
    facing_front = mesh.face_normals[:, 2] > 0.7
    front_id = material_id(front_material or material)
    material_F = np.where(facing_front, front_id, material_id(material)).astype(np.int32)
    half_extents = mesh.extents / 2
    mesh.apply_transform(craft_from_local)
    return Piece(
        mesh=mesh,
        material_F=material_F,
        part_bit=part_bit,
        craft_from_local=craft_from_local,
        half_extent_xy_m=(float(half_extents[0]), float(half_extents[1])),
    )


def block(size_m: Vector, material: str, at: Vector, *, front: str | None = None, z: Vector = AXIS_Z) -> Piece:
    """A box, centred at `at`; `front` is the material of its local +z face."""
    return _placed(trimesh.creation.box(size_m), material, placement(at, z), front_material=front)


def plate(
    size_xy_m: tuple[float, float], material: str, at: Vector, *, z: Vector, x: Vector, thickness_m: float = 0.02
) -> Piece:
    """A thin body plate (radiator, patch of foil, antenna) facing local +z."""
    return _placed(trimesh.creation.box((*size_xy_m, thickness_m)), material, placement(at, z, x))


def solar_panel(
    size_xy_m: tuple[float, float],
    at: Vector,
    *,
    z: Vector,
    x: Vector,
    cells: str = "blue_cells",
    back: str = "carbon",
    thickness_m: float = _PANEL_THICKNESS_M,
) -> Piece:
    """A solar panel with cells on local +z; back and rim belong to the panel part too."""
    mesh = trimesh.creation.box((*size_xy_m, thickness_m))
    return _placed(mesh, back, placement(at, z, x), front_material=cells, part_bit=PANEL_BIT)


def wing(
    root: Vector,
    *,
    out: Vector,
    normal: Vector,
    num_panels: int,
    panel_xy_m: tuple[float, float],
    yoke_m: float,
    cells: str = "blue_cells",
    back: str = "carbon",
) -> list[Piece]:
    """A deployed wing: a V-shaped yoke, then panels in a row with hinges between.

    Args:
        root: Point where the drive mechanism meets the body.
        out: Unit direction away from the body.
        normal: Unit direction that the cells face.
        num_panels: Number of panels.
        panel_xy_m: Panel length along `out` and width across.
        yoke_m: Gap from the root to the first panel.
        cells: Material of the cell side.
        back: Material of the back side.
    """
    root, out, normal = (np.asarray(v, np.float64) for v in (root, out, normal))
    across = np.cross(normal, out)
    length_m, width_m = panel_xy_m
    rod_m = 0.018 + 0.008 * width_m
    pieces = [tube(rod_m * 2.2, 0.16 * yoke_m + 0.05, "aluminium", root, z=out)]
    for side in (-1.0, 1.0):
        tip = root + out * yoke_m + across * side * 0.38 * width_m
        pieces.append(rod(root + out * 0.1 * yoke_m, tip, rod_m, "carbon"))
    for index in range(num_panels):
        near_m = yoke_m + index * (length_m + _HINGE_GAP_M)
        centre = root + out * (near_m + length_m / 2)
        pieces.append(solar_panel(panel_xy_m, centre, z=normal, x=out, cells=cells, back=back))
        if index:
            for side in (-0.33, 0.33):
                hinge = root + out * (near_m - _HINGE_GAP_M / 2) + across * side * width_m
                pieces.append(block((_HINGE_GAP_M * 1.6, _HINGE_GAP_M, _HINGE_GAP_M), "carbon", hinge, z=normal))
    return pieces


def lathe(
    profile_rz_m: Sequence[tuple[float, float]],
    material: str,
    at: Vector,
    *,
    z: Vector = AXIS_Z,
    front: str | None = None,
    sections: int = 48,
    part_bit: int = BODY_BIT,
) -> Piece:
    """A solid of revolution about local +z from (radius, height) points."""
    mesh = trimesh.creation.revolve(np.asarray(profile_rz_m, np.float64), sections=sections)
    return _placed(mesh, material, placement(at, z), front_material=front, part_bit=part_bit)


def tube(
    radius_m: float,
    length_m: float,
    material: str,
    at: Vector,
    *,
    z: Vector = AXIS_Z,
    top_radius_m: float | None = None,
    front: str | None = None,
    sections: int = 40,
) -> Piece:
    """A closed cylinder or cone frustum that starts at `at` and runs along +z."""
    top_m = radius_m if top_radius_m is None else top_radius_m
    profile = [(0.0, 0.0), (radius_m, 0.0), (top_m, length_m), (0.0, length_m)]
    return lathe(profile, material, at, z=z, front=front, sections=sections)


def baffle(
    radius_m: float,
    length_m: float,
    material: str,
    at: Vector,
    *,
    z: Vector = AXIS_Z,
    inner: str = "black_paint",
    mouth_radius_m: float | None = None,
) -> list[Piece]:
    """An open tube with a dark inside: telescope baffle, nozzle or horn."""
    mouth_m = radius_m if mouth_radius_m is None else mouth_radius_m
    wall_m = 0.05 * radius_m
    shell = [(0.0, 0.0), (radius_m, 0.0), (mouth_m, length_m), (mouth_m - wall_m, length_m)]
    bore = [(mouth_m - wall_m, length_m), (radius_m - wall_m, wall_m), (0.0, wall_m)]
    return [lathe(shell, material, at, z=z), lathe(bore, inner, at, z=z)]


def prism(
    num_sides: int,
    radius_m: float,
    height_m: float,
    material: str,
    at: Vector,
    *,
    z: Vector = AXIS_Z,
    front: str | None = None,
    part_bit: int = BODY_BIT,
) -> Piece:
    """A regular prism standing on `at`; `radius_m` is to its corners."""
    profile = [(0.0, 0.0), (radius_m, 0.0), (radius_m, height_m), (0.0, height_m)]
    return lathe(profile, material, at, z=z, front=front, sections=num_sides, part_bit=part_bit)


def dish(
    radius_m: float,
    depth_m: float,
    at: Vector,
    *,
    z: Vector,
    face: str = "white_paint",
    back: str = "black_foil",
    feed_m: float | None = None,
) -> list[Piece]:
    """A parabolic reflector opening along +z, with back shell, tripod and feed."""
    steps = np.linspace(0.0, 1.0, 12)
    bowl = [(radius_m * s, depth_m * s * s) for s in steps]
    shell = [(radius_m * s, depth_m * s * s - 0.03 * radius_m) for s in steps]
    front_mesh = lathe([*bowl[::-1]], face, at, z=z)
    back_mesh = lathe([*shell, bowl[-1]], back, at, z=z)
    transform = placement(at, z)
    focus_m = feed_m if feed_m is not None else radius_m * radius_m / (4 * depth_m)
    focus = transform[:3, :3] @ np.array([0.0, 0.0, focus_m]) + transform[:3, 3]
    pieces = [front_mesh, back_mesh, tube(0.09 * radius_m, 0.16 * radius_m, face, focus, z=z)]
    for angle_rad in np.arange(3) * 2 * np.pi / 3:
        rim = np.array([0.8 * radius_m * np.cos(angle_rad), 0.8 * radius_m * np.sin(angle_rad), 0.64 * depth_m])
        pieces.append(rod(transform[:3, :3] @ rim + transform[:3, 3], focus, 0.018 * radius_m + 0.004, face))
    return pieces


def rod(start: Vector, end: Vector, radius_m: float, material: str) -> Piece:
    """A thin round strut between two points."""
    along = np.asarray(end, np.float64) - np.asarray(start, np.float64)
    return tube(radius_m, float(np.linalg.norm(along)), material, start, z=along, sections=10)


def thruster(at: Vector, *, z: Vector, size_m: float) -> list[Piece]:
    """A small bell nozzle on a valve block."""
    axis = np.asarray(z, np.float64) / np.linalg.norm(z)
    base = np.asarray(at, np.float64)
    bell = baffle(
        0.2 * size_m, 0.6 * size_m, "aluminium", base + axis * 0.35 * size_m, z=z, mouth_radius_m=0.42 * size_m
    )
    return [block((0.5 * size_m,) * 3, "aluminium", base + axis * 0.15 * size_m, z=z), *bell]
