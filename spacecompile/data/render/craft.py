"""A spacecraft as arrays: pieces with a part and a material, flattened for ray casting and shading.

Lengths are metres.
Layout legend: V vertices, F faces, P pieces, X Cartesian coordinates (3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import trimesh
from numpy.typing import NDArray

Vector: TypeAlias = Sequence[float] | NDArray[np.float64]
Floats: TypeAlias = NDArray[np.float64]

AXIS_X: Final = (1.0, 0.0, 0.0)
AXIS_Y: Final = (0.0, 1.0, 0.0)
AXIS_Z: Final = (0.0, 0.0, 1.0)
MINUS_X: Final = (-1.0, 0.0, 0.0)
MINUS_Y: Final = (0.0, -1.0, 0.0)
MINUS_Z: Final = (0.0, 0.0, -1.0)

# Neighbouring faces that meet at less than this angle are shaded as one smooth surface.
_SMOOTH_BELOW_DEG: Final = 33.0


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
        class_name: SPARK class of the craft.
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
    smooth_cos = np.cos(np.radians(_SMOOTH_BELOW_DEG))
    for vertex in range(len(vertices)):
        corners = order[starts[vertex] : starts[vertex + 1]]
        around = corner_face[corners]
        is_smooth = unit_normals[around] @ unit_normals[around].T > smooth_cos
        summed = is_smooth @ area_normals[around]
        summed /= np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12)
        result[around, corners % 3] = summed
    return result
