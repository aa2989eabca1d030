"""Parametric solids with normals and texture coordinates, y up: everything is a loft through rings of points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_CREASE = np.cos(np.radians(35.0))
_AXES = {"x": 0, "y": 1, "z": 2}


@dataclass(frozen=True)
class Solid:
    """Triangles that close a volume and look outward."""

    vertices: Array  # [V, 3] any unit
    normals: Array  # [V, 3] unit
    uv: Array  # [V, 2] in 0..1
    faces: NDArray[np.int64]  # [F, 3] counter-clockwise seen from outside

    def area(self) -> float:
        """The area of all triangles."""
        a, b, c = (self.vertices[self.faces[:, n]] for n in range(3))
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Solid:
        """The same solid somewhere else."""
        return Solid(self.vertices + np.array([x, y, z]), self.normals, self.uv, self.faces)

    def turned(self, axis: str, degrees: float) -> Solid:
        """Turned about the axis "x", "y" or "z" through the origin, right-handed."""
        first, second = [i for i in range(3) if i != _AXES[axis]]
        sine = np.sin(np.radians(degrees)) * (-1.0 if axis == "y" else 1.0)
        matrix = np.eye(3)
        matrix[first, first] = matrix[second, second] = np.cos(np.radians(degrees))
        matrix[first, second], matrix[second, first] = sine, -sine
        return Solid(self.vertices @ matrix, self.normals @ matrix, self.uv, self.faces)


def joined(solids: Sequence[Solid]) -> Solid:
    """Several solids as one list of triangles."""
    starts = np.cumsum([0, *(len(s.vertices) for s in solids)])
    faces = [s.faces + start for s, start in zip(solids, starts, strict=False)]
    vertices, normals, uv = (np.concatenate([getattr(s, name) for s in solids]) for name in ("vertices", "normals", "uv"))
    return Solid(vertices, normals, uv, np.concatenate(faces))


def loft(rings: Array, *, smooth: bool = False, caps: bool = True) -> Solid:
    """The skin through `rings [S, K, 3]`, each counter-clockwise seen from where the rings go.

    Args:
        smooth: one normal per point of the grid, instead of one per side.
        caps: close the first and the last ring with fans around their means (they must be star-shaped from there).
    """
    s, k = rings.shape[:2]
    grid = np.concatenate([rings, rings[:, :1]], axis=1)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(grid, axis=0), axis=-1).mean(1))])
    u, v = np.meshgrid(np.linspace(0, 1, k + 1), length / max(float(length[-1]), 1e-12))
    texture = np.stack([u, v], axis=-1)
    i, j = (a.ravel() for a in np.meshgrid(np.arange(s - 1), np.arange(k), indexing="ij"))
    corners = np.stack([i * (k + 1) + j, i * (k + 1) + j + 1, (i + 1) * (k + 1) + j + 1, (i + 1) * (k + 1) + j], axis=1)
    across = np.cross(grid[1:, 1:] - grid[:-1, :-1], grid[1:, :-1] - grid[:-1, 1:])  # [S-1, K, 3], twice the quad's area
    vertices, uv = grid.reshape(-1, 3), texture.reshape(-1, 2)
    if smooth:
        around = np.zeros((s, k, 3))
        for rows, weight in ((slice(0, s - 1), across), (slice(1, s), across)):
            around[rows] += weight + np.roll(weight, 1, axis=1)
        normals = np.concatenate([around, around[:, :1]], axis=1).reshape(-1, 3)
    else:
        vertices, uv, normals = vertices[corners].reshape(-1, 3), uv[corners].reshape(-1, 2), np.repeat(across.reshape(-1, 3), 4, axis=0)
        corners = np.arange(4 * len(corners)).reshape(-1, 4)
    faces = np.concatenate([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]])
    skin = Solid(vertices, _unit(normals), uv, _without_slivers(vertices, faces))
    return joined([skin, _cap(rings[0][::-1]), _cap(rings[-1])]) if caps else skin


def box(width: float, height: float, depth: float, *, top: float | tuple[float, float] = 1.0) -> Solid:
    """A box that stands on y = 0; `top` narrows its upper side (both ways, or in x and z)."""
    tx, tz = top if isinstance(top, tuple) else (top, top)
    square = np.array([[1, 0, 1], [1, 0, -1], [-1, 0, -1], [-1, 0, 1]]) * [width / 2, 0, depth / 2]
    return loft(np.stack([square, square * [tx, 0, tz] + [0, height, 0]]))


def lathe(profile: Sequence[tuple[float, float]], *, sides: int = 20) -> Solid:
    """Turn `profile` (radius, height), from the bottom of the axis outward and up, about y.

    Corners sharper than 35 degrees stay sharp. An end that is off the axis leaves a hole, unless the profile closes.
    """
    points = np.array(profile, dtype=np.float64)
    steps = _unit(np.diff(points, axis=0))
    sharp = [n + 1 for n in range(len(steps) - 1) if float(steps[n] @ steps[n + 1]) < _CREASE]
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    circle = np.stack([np.cos(angle), np.zeros(sides), -np.sin(angle)], axis=1)
    runs = [points[a : b + 1] for a, b in zip([0, *sharp], [*sharp, len(points) - 1], strict=True)]
    return joined([loft(circle * run[:, :1, None] + [[[0, h, 0]] for h in run[:, 1]], smooth=True, caps=False) for run in runs])


def pillar(bottom: float, height: float, top: float | None = None, *, sides: int = 20) -> Solid:
    """A cylinder or, with another radius at the `top`, a cone, that stands on y = 0."""
    top = bottom if top is None else top
    return lathe([(0, 0), (bottom, 0), (top, height)] + ([(0.0, height)] if top else []), sides=sides)


def pyramid(width: float, height: float, depth: float) -> Solid:
    """A pyramid with four flat sides that stands on y = 0."""
    square = np.array([[1, 0, 1], [1, 0, -1], [-1, 0, -1], [-1, 0, 1]]) * [width / 2, 0, depth / 2]
    return joined([loft(np.stack([square, np.tile([0.0, height, 0.0], (4, 1))]), caps=False), _cap(square[::-1])])


def ball(radius: float, *, sides: int = 20) -> Solid:
    """A sphere around the origin."""
    return lathe([(radius * np.sin(a), -radius * np.cos(a)) for a in np.linspace(0, np.pi, sides // 2 + 1)], sides=sides)


def ring(radius: float, thickness: float, *, sides: int = 28) -> Solid:
    """A torus around y: `radius` to the middle of a tube that is `thickness` wide."""
    angle = np.linspace(0, 2 * np.pi, 13)
    return lathe([(radius + thickness / 2 * np.cos(a), thickness / 2 * np.sin(a)) for a in angle], sides=sides)


def cup(profile: Sequence[tuple[float, float]], wall: float, *, sides: int = 20) -> Solid:
    """A vessel: the outside `profile` from the axis up to the rim, and an inside that is `wall` away from it."""
    inside = [(max(r - wall, 0.0), max(h, wall)) for r, h in reversed(profile)]
    return lathe([*profile, *inside], sides=sides)


def rod(path: Sequence[Sequence[float]], thickness: float, *, sides: int = 8) -> Solid:
    """A round bar along a `path` of points."""
    points = np.array(path, dtype=np.float64)
    ahead = _unit(np.gradient(points, axis=0))
    start = np.eye(3)[int(np.argmin(np.abs(ahead[0])))]
    rings, angle = [], np.linspace(0, 2 * np.pi, sides, endpoint=False)
    for point, direction in zip(points, ahead, strict=True):
        start = _unit(start - (start @ direction) * direction)  # carried along, so that the bar does not twist
        other = np.cross(direction, start)
        rings.append(point + thickness / 2 * (np.cos(angle)[:, None] * start + np.sin(angle)[:, None] * other))
    skin = loft(np.stack(rings), smooth=True, caps=False)
    return joined([skin, _cap(rings[0][::-1]), _cap(rings[-1])])


def plate(outline: Sequence[tuple[float, float]], thickness: float) -> Solid:
    """A flat piece in the x-y plane, `thickness` along z; `outline` is counter-clockwise and star-shaped from its mean."""
    points = np.array([(x, y, 0.0) for x, y in outline])
    half = np.array([0.0, 0.0, thickness / 2])
    return loft(np.stack([points - half, points + half]))


def _cap(points: Array) -> Solid:
    """A fan over one ring, counter-clockwise seen from outside."""
    middle = points.mean(0)
    normal = _unit(np.cross(points - middle, np.roll(points, -1, axis=0) - middle).sum(0))
    flat = np.delete(points, int(np.argmax(np.abs(normal))), axis=1)
    flat = np.vstack([flat.mean(0), flat])
    flat = (flat - flat.min(0)) / np.maximum(np.ptp(flat, axis=0), 1e-12)
    vertices = np.vstack([middle, points])
    n = np.arange(len(points))
    faces = np.stack([np.zeros_like(n), n + 1, (n + 1) % len(points) + 1], axis=1)
    return Solid(vertices, np.tile(normal, (len(vertices), 1)), flat, _without_slivers(vertices, faces))


def _without_slivers(vertices: Array, faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Only faces that have an area: at a pole, every second triangle of a loft has none."""
    a, b, c = (vertices[faces[:, n]] for n in range(3))
    return np.asarray(faces[np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-12])


def _unit(rows: Array) -> Array:
    """Rows of length one; a zero row stays zero."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12))
