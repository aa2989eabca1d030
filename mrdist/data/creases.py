"""Normals for triangles that have none: smooth surfaces stay smooth, edges stay edges."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrdist.shapes import Float

_SMOOTH = float(np.cos(np.radians(40.0)))
_STEPS = 2**21 - 1  # per axis: three of them fill an int64; 1e-6 of the radius apart is the same place


def creased(vertices: Float, faces: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], Float]:
    """Split vertices along edges where faces meet at 40 degrees or more, and give each side its area-weighted normal.

    Two corners at one place share a normal if a chain of smooth edges connects them around that place: the rule by which
    modelling programs split "hard" edges. Its cost grows with the number of faces whatever the mesh, unlike comparing all faces
    around a vertex, which a fan of a million triangles turns into a trap. Vertices at the same place (a file that repeats them
    per triangle, a texture seam) count as one here, and are not merged in what is returned.

    Args:
        vertices: [V, 3] inside the unit sphere.
        faces: [F, 3] rows of `vertices`.

    Returns:
        corners [F, 3] rows of the new vertices; origin [N] the old row of each new vertex; normals [N, 3] unit.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    place = _places(vertices)[faces].ravel()  # [3 F] of every corner
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    cross = np.cross(b - a, c - a)
    size = np.linalg.norm(cross, axis=1, keepdims=True)
    unit = np.where(size > 0, cross / np.maximum(size, 1e-300), (0.0, 0.0, 1.0))

    corner = np.arange(len(place))
    following = corner + np.where(corner % 3 == 2, -2, 1)
    low, high = np.minimum(place, place[following]), np.maximum(place, place[following])
    order = np.argsort(low * (int(place.max()) + 1) + high, kind="stable")
    one, other = order[:-1], order[1:]
    shared = (low[one] == low[other]) & (high[one] == high[other])
    one, other = one[shared], other[shared]
    smooth = np.einsum("ij,ij->i", unit[one // 3], unit[other // 3]) > _SMOOTH
    one, other = one[smooth], other[smooth]
    # Neighbours usually walk their edge in opposite directions: my start is your end.
    opposite = place[one] != place[other]
    links = (
        np.concatenate([one, following[one]]),
        np.concatenate([np.where(opposite, following[other], other), np.where(opposite, other, following[other])]),
    )
    graph = coo_array((np.ones(len(links[0]), np.int8), links), shape=(len(place), len(place)))
    count, side = connected_components(graph, directed=False)
    side = side.astype(np.int64)  # it is int32, and products of row numbers follow

    total = np.stack([np.bincount(side, np.repeat(cross[:, k], 3), count) for k in range(3)], axis=1)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    # Faces that cancel each other leave no direction: any of theirs is better than none.
    some = np.empty(count, np.int64)
    some[side] = corner // 3
    normal = np.where(length > 1e-12 * size[some], total / np.maximum(length, 1e-300), unit[some])

    rows, corners = np.unique(side * len(vertices) + faces.ravel(), return_inverse=True)
    return corners.reshape(-1, 3), rows % len(vertices), normal[rows // len(vertices)].astype(np.float32)


def _places(vertices: Float) -> NDArray[np.int64]:
    """[V] the same number for vertices at the same place."""
    grid = np.rint((vertices.astype(np.float64) + 1) * (_STEPS / 2)).astype(np.int64).clip(0, _STEPS)
    keys = (grid[:, 0] << 42) | (grid[:, 1] << 21) | grid[:, 2]
    return np.asarray(np.unique(keys, return_inverse=True)[1], np.int64)
