"""Small meshes to render: spheres, panes and columns, as real `Mesh`es."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrdist.data.mesh import Material, Mesh
from mrdist.shapes import Bytes


def mesh(
    vertices: ArrayLike,
    faces: ArrayLike,
    *,
    colour: ArrayLike = (1.0, 1.0, 1.0, 1.0),
    uv: ArrayLike = (0.0, 0.0),
    normals: ArrayLike | None = None,
    material: ArrayLike = 0,
    materials: tuple[Material, ...] = (Material(),),
) -> Mesh:
    """A Mesh of what is given; flat normals, each face with corners of its own, where no normals are given."""
    xyz, corners = np.asarray(vertices, np.float64), np.asarray(faces, np.int32).reshape(-1, 3)
    rgba = np.broadcast_to(np.asarray(colour, np.float64), (len(xyz), 4))
    st = np.broadcast_to(np.asarray(uv, np.float64), (len(xyz), 2))
    if normals is None:
        xyz, rgba, st = xyz[corners].reshape(-1, 3), rgba[corners].reshape(-1, 4), st[corners].reshape(-1, 2)
        corners = np.arange(len(xyz), dtype=np.int32).reshape(-1, 3)
        across = np.cross(xyz[1::3] - xyz[0::3], xyz[2::3] - xyz[0::3])
        length = np.linalg.norm(across, axis=1, keepdims=True)
        normals = np.repeat(np.where(length > 0, across / np.maximum(length, 1e-30), (0, 0, 1)), 3, axis=0)
    return Mesh(
        np.ascontiguousarray(xyz, np.float32),
        corners,
        np.ascontiguousarray(normals, np.float32),
        np.ascontiguousarray(st, np.float32),
        np.ascontiguousarray(rgba, np.float32),
        np.broadcast_to(np.asarray(material, np.int32), (len(corners),)).copy(),
        materials,
    )


def grid(rows: int, columns: int) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """`uv [V, 2]` over the unit square, row by row, and the faces between them."""
    v, u = np.meshgrid(np.linspace(0, 1, rows + 1), np.linspace(0, 1, columns + 1), indexing="ij")
    a = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).ravel()
    b, c, d = a + columns + 1, a + columns + 2, a + 1
    return np.stack([u, v], -1).reshape(-1, 2), np.stack([a, b, c, a, c, d], -1).reshape(-1, 3).astype(np.int32)


def sphere(rows: int = 32, *, radius: float = 1.0, lumps: float = 0.0, **more: object) -> Mesh:
    """A ball with a smooth surface, its poles along z; `colour` may be a function of directions [V, 3]."""
    uv, faces = grid(rows, 2 * rows)
    theta, phi = np.pi * uv[:, 1], 2 * np.pi * uv[:, 0]
    out = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1)
    xyz = out * (radius * (1 - lumps * (0.5 + 0.5 * np.sin(4 * theta) * np.sin(theta) ** 2 * np.sin(5 * phi))))[:, None]
    normals = out
    if lumps:
        across = np.cross(xyz[faces[:, 1]] - xyz[faces[:, 0]], xyz[faces[:, 2]] - xyz[faces[:, 0]])
        summed = np.zeros_like(xyz)
        for k in range(3):
            np.add.at(summed, faces[:, k], across)
        length = np.linalg.norm(summed, axis=1, keepdims=True)
        normals = np.where(length > 1e-12, summed / np.maximum(length, 1e-12), out)
    colour = more.pop("colour", (1.0, 1.0, 1.0, 1.0))
    return mesh(xyz, faces, uv=uv, normals=normals, colour=colour(out) if callable(colour) else colour, **more)  # type: ignore[arg-type]


def panes(places: Sequence[float], colours: ArrayLike, *, alpha: str = "blend", half: float = 0.6) -> Mesh:
    """Square panes across the x axis, one at each of `places`, `colours [panes, 4]` in linear light."""
    square = np.array([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]]) * half
    xyz = np.concatenate([square + np.array([x, 0, 0]) for x in places])
    faces = np.concatenate([np.array([[0, 1, 2], [0, 2, 3]]) + 4 * i for i in range(len(places))])
    uv = np.tile([[0, 1], [1, 1], [1, 0], [0, 0]], (len(places), 1))
    return mesh(xyz, faces, uv=uv, colour=np.repeat(np.asarray(colours, np.float64), 4, 0), materials=(Material(alpha=alpha),))  # type: ignore[arg-type]


def together(*parts: Mesh) -> Mesh:
    """Several meshes as one."""
    vertices = np.cumsum([0, *(len(part.vertices) for part in parts)])
    materials = np.cumsum([0, *(len(part.materials) for part in parts)])
    return Mesh(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + np.int32(first) for part, first in zip(parts, vertices, strict=False)]),
        np.concatenate([part.normals for part in parts]),
        np.concatenate([part.uv for part in parts]),
        np.concatenate([part.colour for part in parts]),
        np.concatenate([part.material + np.int32(first) for part, first in zip(parts, materials, strict=False)]),
        tuple(material for part in parts for material in part.materials),
    )


def waves(height: int, width: int, *, holes: bool = False) -> Bytes:
    """A smooth coloured texture that repeats; with `holes`, alpha waves from 0 to 255 too."""
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1) * 2 * np.pi
    colour = np.stack([np.sin(3 * x + y), np.sin(2 * y), np.sin(x - 2 * y)], -1) * 100 + 128
    alpha = np.sin(5 * x) * np.sin(4 * y) * 127.5 + 127.5 if holes else np.full_like(x, 255)
    return np.concatenate([colour, alpha[..., None]], -1).round().astype(np.uint8)
