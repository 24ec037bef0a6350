"""Building blocks of a spacecraft: solid pieces with a part, a material and a local frame.

Lengths are metres. Every piece is built in its own frame, +z its main axis, and placed in the craft frame.
Layout legend: V vertices, F faces, P pieces, X Cartesian coordinates (3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import trimesh
from numpy.typing import NDArray

from spacecompile.data.render.material import material_id
from spacecompile.data.spark import BODY_BIT, PANEL_BIT

Vector: TypeAlias = Sequence[float] | NDArray[np.float64]
Floats: TypeAlias = NDArray[np.float64]

AXIS_X: Final = (1.0, 0.0, 0.0)
AXIS_Y: Final = (0.0, 1.0, 0.0)
AXIS_Z: Final = (0.0, 0.0, 1.0)
MINUS_X: Final = (-1.0, 0.0, 0.0)
MINUS_Y: Final = (0.0, -1.0, 0.0)
MINUS_Z: Final = (0.0, 0.0, -1.0)

PANEL_THICKNESS_M: Final = 0.03
# Neighbouring faces that meet at less than this angle are shaded as one smooth surface.
SMOOTH_BELOW_DEG: Final = 33.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """One solid of a craft.

    Attributes:
        mesh: Geometry in the craft frame.
        material_F: Material id per face.
        part_bit: `BODY_BIT` or `PANEL_BIT`.
        craft_from_local: 4x4 placement; cell texture is drawn in local x, y.
        half_extent_xy_m: Half size of the textured face in local x, y.
    """

    mesh: trimesh.Trimesh
    material_F: NDArray[np.int32]
    part_bit: int
    craft_from_local: Floats
    half_extent_xy_m: tuple[float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Craft:
    """A whole craft, flattened to arrays for ray casting and shading.

    Attributes:
        class_name: Its SPARK class.
        vertices_VX: Vertex positions, centred on the middle of the bounding box.
        faces_F3: Vertex indices per face.
        normals_F3X: Shading normal per face corner, unit length.
        material_F: Material id per face.
        part_F: `BODY_BIT` or `PANEL_BIT` per face.
        piece_F: Piece index per face.
        local_from_craft_P34: Rigid transform into each piece's local frame.
        half_extent_P2: Half size of each piece's textured face.
        radius_m: Bounding sphere around the origin.
    """

    class_name: str
    vertices_VX: NDArray[np.float32]
    faces_F3: NDArray[np.int32]
    normals_F3X: NDArray[np.float32]
    material_F: NDArray[np.int32]
    part_F: NDArray[np.uint8]
    piece_F: NDArray[np.int32]
    local_from_craft_P34: NDArray[np.float32]
    half_extent_P2: NDArray[np.float32]
    radius_m: float


def placement(at: Vector, z_axis: Vector = AXIS_Z, x_axis: Vector | None = None) -> Floats:
    """4x4 craft-from-local transform with local +z along `z_axis` and local +x as near `x_axis` as it can be."""
    z_unit = np.asarray(z_axis, dtype=np.float64) / np.linalg.norm(z_axis)
    hint = np.asarray(x_axis if x_axis is not None else np.roll(np.abs(z_unit) == np.abs(z_unit).max(), 1), np.float64)
    x_unit = hint - z_unit * (hint @ z_unit)
    x_unit /= np.linalg.norm(x_unit)
    transform = np.eye(4)
    transform[:3, 0], transform[:3, 1], transform[:3, 2] = x_unit, np.cross(z_unit, x_unit), z_unit
    transform[:3, 3] = at
    return transform


def rotated(vector: Vector, axis: Vector, angle_rad: float) -> Floats:
    """`vector` turned about a unit `axis` (Rodrigues)."""
    v, k = np.asarray(vector, np.float64), np.asarray(axis, np.float64)
    turned = v * np.cos(angle_rad) + np.cross(k, v) * np.sin(angle_rad) + k * (k @ v) * (1 - np.cos(angle_rad))
    return np.asarray(turned, np.float64)


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
    thickness_m: float = PANEL_THICKNESS_M,
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
    yoke: str = "carbon",
    gap_m: float = 0.06,
) -> list[Piece]:
    """A deployed wing: a V-shaped yoke, then panels in a row with hinges between.

    Args:
        root: Where the drive mechanism meets the body.
        out: Unit direction away from the body.
        normal: Unit direction that the cells face.
        num_panels: How many panels.
        panel_xy_m: Panel length along `out` and width across.
        yoke_m: Gap from the root to the first panel.
        cells: Material of the cell side.
        back: Material of the back side.
        yoke: Material of yoke and hinges.
        gap_m: Gap between panels.
    """
    root, out, normal = (np.asarray(v, np.float64) for v in (root, out, normal))
    across = np.cross(normal, out)
    length_m, width_m = panel_xy_m
    rod_m = 0.018 + 0.008 * width_m
    pieces = [tube(rod_m * 2.2, 0.16 * yoke_m + 0.05, "aluminium", root, z=out)]
    for side in (-1.0, 1.0):
        tip = root + out * yoke_m + across * side * 0.38 * width_m
        pieces.append(rod(root + out * 0.1 * yoke_m, tip, rod_m, yoke))
    for index in range(num_panels):
        near_m = yoke_m + index * (length_m + gap_m)
        centre = root + out * (near_m + length_m / 2)
        pieces.append(solar_panel(panel_xy_m, centre, z=normal, x=out, cells=cells, back=back))
        if index:
            for side in (-0.33, 0.33):
                hinge = root + out * (near_m - gap_m / 2) + across * side * width_m
                pieces.append(block((gap_m * 1.6, gap_m, gap_m), yoke, hinge, z=normal))
    return pieces


def lathe(profile_rz_m: Sequence[tuple[float, float]], material: str, at: Vector, *, z: Vector = AXIS_Z,
          front: str | None = None, sections: int = 48, part_bit: int = BODY_BIT) -> Piece:
    """A solid of revolution about local +z from (radius, height) points."""
    mesh = trimesh.creation.revolve(np.asarray(profile_rz_m, np.float64), sections=sections)
    return _placed(mesh, material, placement(at, z), front_material=front, part_bit=part_bit)


def tube(radius_m: float, length_m: float, material: str, at: Vector, *, z: Vector = AXIS_Z,
         top_radius_m: float | None = None, front: str | None = None, sections: int = 40) -> Piece:
    """A closed cylinder or cone frustum that starts at `at` and runs along +z."""
    top_m = radius_m if top_radius_m is None else top_radius_m
    profile = [(0.0, 0.0), (radius_m, 0.0), (top_m, length_m), (0.0, length_m)]
    return lathe(profile, material, at, z=z, front=front, sections=sections)


def baffle(radius_m: float, length_m: float, material: str, at: Vector, *, z: Vector = AXIS_Z,
           inner: str = "black_paint", mouth_radius_m: float | None = None) -> list[Piece]:
    """An open tube with a dark inside: telescope baffle, nozzle or horn."""
    mouth_m = radius_m if mouth_radius_m is None else mouth_radius_m
    wall_m = 0.05 * radius_m
    shell = [(0.0, 0.0), (radius_m, 0.0), (mouth_m, length_m), (mouth_m - wall_m, length_m)]
    bore = [(mouth_m - wall_m, length_m), (radius_m - wall_m, wall_m), (0.0, wall_m)]
    return [lathe(shell, material, at, z=z), lathe(bore, inner, at, z=z)]


def prism(num_sides: int, radius_m: float, height_m: float, material: str, at: Vector, *, z: Vector = AXIS_Z,
          front: str | None = None, part_bit: int = BODY_BIT) -> Piece:
    """A regular prism standing on `at`; `radius_m` is to its corners."""
    profile = [(0.0, 0.0), (radius_m, 0.0), (radius_m, height_m), (0.0, height_m)]
    return lathe(profile, material, at, z=z, front=front, sections=num_sides, part_bit=part_bit)


def dish(radius_m: float, depth_m: float, at: Vector, *, z: Vector, face: str = "white_paint",
         back: str = "black_foil", feed_m: float | None = None) -> list[Piece]:
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
    bell = baffle(0.2 * size_m, 0.6 * size_m, "aluminium", base + axis * 0.35 * size_m, z=z,
                  mouth_radius_m=0.42 * size_m)
    return [block((0.5 * size_m,) * 3, "aluminium", base + axis * 0.15 * size_m, z=z), *bell]


def assemble(class_name: str, pieces: Sequence[Piece]) -> Craft:
    """Flattens pieces into one craft, centred on its bounding box."""
    vertices_VX = np.concatenate([piece.mesh.vertices for piece in pieces])
    centre_X = (vertices_VX.min(axis=0) + vertices_VX.max(axis=0)) / 2
    offsets = np.cumsum([0, *(len(piece.mesh.vertices) for piece in pieces)])
    local_P34 = []
    for piece in pieces:
        local_from_craft = np.linalg.inv(piece.craft_from_local)
        local_from_craft[:3, 3] += local_from_craft[:3, :3] @ centre_X
        local_P34.append(local_from_craft[:3])
    counts = [len(piece.mesh.faces) for piece in pieces]
    faces = [piece.mesh.faces + offset for piece, offset in zip(pieces, offsets[:-1], strict=True)]
    return Craft(
        class_name=class_name,
        vertices_VX=(vertices_VX - centre_X).astype(np.float32),
        faces_F3=np.concatenate(faces).astype(np.int32),
        normals_F3X=np.concatenate([_corner_normals(piece.mesh) for piece in pieces]).astype(np.float32),
        material_F=np.concatenate([piece.material_F for piece in pieces]),
        part_F=np.repeat([piece.part_bit for piece in pieces], counts).astype(np.uint8),
        piece_F=np.repeat(np.arange(len(pieces)), counts).astype(np.int32),
        local_from_craft_P34=np.array(local_P34, dtype=np.float32),
        half_extent_P2=np.array([piece.half_extent_xy_m for piece in pieces], dtype=np.float32),
        radius_m=float(np.linalg.norm(vertices_VX - centre_X, axis=1).max()),
    )


def _corner_normals(mesh: trimesh.Trimesh) -> Floats:
    """Shading normals [F, 3 corners, X]: faces around a corner are averaged where they meet smoothly."""
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    edges = vertices[faces]
    area_normals = np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0])
    unit_normals = area_normals / np.maximum(np.linalg.norm(area_normals, axis=1, keepdims=True), 1e-12)
    corner_vertex = faces.ravel()
    corner_face = np.repeat(np.arange(len(faces)), 3)
    order = np.argsort(corner_vertex, kind="stable")
    starts = np.searchsorted(corner_vertex[order], np.arange(len(vertices) + 1))
    result = np.empty((len(faces), 3, 3))
    smooth_cos = np.cos(np.radians(SMOOTH_BELOW_DEG))
    for vertex in range(len(vertices)):
        corners = order[starts[vertex] : starts[vertex + 1]]
        around = corner_face[corners]
        is_smooth = unit_normals[around] @ unit_normals[around].T > smooth_cos
        summed = is_smooth @ area_normals[around]
        summed /= np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12)
        result[around, corners % 3] = summed
    return result
