"""Comparing meshes by their triangles, whatever the order of faces and the place and size of the file's unit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrdist.data.mesh import Mesh


def same_triangles(mesh: Mesh, triangles: NDArray[Any], *, tolerance: float = 2e-5) -> bool:
    """Whether `mesh` is `triangles [F, 3, 3]` once these are box-centred and scaled into the unit sphere."""
    points = np.asarray(triangles, np.float64).reshape(-1, 3)
    points = points - (points.min(0) + points.max(0)) / 2
    points /= np.linalg.norm(points, axis=1).max()
    return len(mesh.faces) == len(triangles) and bool(
        np.allclose(_sorted(mesh.vertices[mesh.faces].astype(np.float64)), _sorted(points.reshape(-1, 3, 3)), atol=tolerance)
    )


def _sorted(triangles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners and triangles in an order that depends on where they are only."""
    rough = np.rint(triangles * 500).astype(np.int64)
    key = rough[..., 0] * 4_000_000 + rough[..., 1] * 2_000 + rough[..., 2]
    corners = np.take_along_axis(triangles, np.argsort(key, axis=1, kind="stable")[..., None], axis=1)
    key = np.sort(key, axis=1)
    return corners[np.lexsort(key.T)]
