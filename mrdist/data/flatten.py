"""From the pieces that a file holds to one checked Mesh: z up, centred, in the unit sphere, with normals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrdist.data.colour import linear
from mrdist.data.creases import creased
from mrdist.data.mesh import Material, Mesh
from mrdist.errors import DataError
from mrdist.shapes import GREY, Float, to_z_up

_SIZES = (1e-12, 1e12)  # of a box, in the file's unit: beyond these a file is broken, and squares leave float32
_SLIVER = 1e-9  # twice the area over the square of the longest edge: three points on a line
_SPECK = 1e-14  # twice the area in the unit sphere: what float32 cannot tell from nothing
_FAR_UV = 1e4  # textures repeat; beyond this float32 cannot tell texels apart and int32 overflows

NEUTRAL: Float = np.append(linear(np.full(3, GREY)), np.float32(1))
"""[4] the colour of a surface that has none."""

PLAIN = Material()


@dataclass(frozen=True)
class Piece:
    """Triangles of one material as a file has them: any unit, any axis, nothing checked."""

    vertices: NDArray[Any]  # [V, 3]
    faces: NDArray[Any]  # [F, 3] rows of `vertices`
    colour: NDArray[Any]  # [V, 4] or [4] linear light and alpha
    normals: NDArray[Any] | None = None  # [V, 3]
    uv: NDArray[Any] | None = None  # [V, 2]
    material: Material = PLAIN

    def check(self, what: str) -> None:
        """Raise a DataError if arrays do not fit one another or an index points nowhere."""
        rows = len(self.vertices)
        for name, array, shape in (
            ("vertices", self.vertices, (rows, 3)),
            ("normals", self.normals, (rows, 3)),
            ("uv", self.uv, (rows, 2)),
            ("colours", self.colour, (4,) if self.colour.ndim == 1 else (rows, 4)),
        ):
            if array is not None and array.shape != shape:
                got = f"{name} of shape {list(array.shape)}"
                raise DataError(what=what, got=got, wanted=str(list(shape)), try_="re-export the mesh")
        if len(self.faces) and (self.faces.min() < 0 or self.faces.max() >= rows):
            got = f"index out of range ({self.faces.min()} to {self.faces.max()})"
            raise DataError(what=what, got=got, wanted=f"indices of {rows} vertices", try_="re-export the mesh")


def flatten(pieces: Sequence[Piece], *, up: str, what: str, faces: int) -> Mesh:
    """One mesh of all pieces; what is broken beyond repair is an error, what is only useless is dropped.

    Faces with a vertex that is not finite, and faces without area, are dropped. Normals that a piece lacks are computed: smooth
    where neighbouring faces meet at less than 40 degrees, else with a crease.

    Args:
        pieces: in the file's own axes and unit.
        up: which of those axes points up.
        what: the name of the file, for errors.
        faces: the most that are allowed.

    Raises:
        DataError: no face left, more than `faces`, an index that points nowhere, or an absurd size.
    """
    total = sum(len(piece.faces) for piece in pieces)
    if total == 0:
        raise DataError(what=what, got="0 faces", wanted="at least 1 face", try_="re-export the mesh with its triangles")
    if total > faces:
        raise DataError(what=what, got=f"{total} faces", wanted=f"at most {faces} faces", try_="decimate the mesh, or raise limits.faces")
    for piece in pieces:
        piece.check(what)
    soup = _Soup(pieces, up)
    soup.keep(np.isfinite(soup.vertices).all(1)[soup.faces].all(1), what, "only faces whose coordinates are not finite")
    flat = "no area: all points coincide or lie on a line"
    # By its own size first: a stray corner far away must not make everything else look small.
    soup.keep(_thickness(soup.vertices, soup.faces, relative=True) > _SLIVER, what, flat)
    soup.fit(what)
    soup.keep(_thickness(soup.vertices.astype(np.float32), soup.faces) > _SPECK, what, flat)
    soup.fit(what)
    return soup.mesh()


class _Soup:
    """All pieces in one set of arrays, while faces are being dropped."""

    def __init__(self, pieces: Sequence[Piece], up: str) -> None:
        counts = [len(piece.vertices) for piece in pieces]
        starts = np.concatenate([[0], np.cumsum(counts)])
        self.vertices = np.concatenate([np.asarray(piece.vertices, np.float64) for piece in pieces])
        self.faces = np.concatenate(
            [np.asarray(piece.faces, np.int64).reshape(-1, 3) + start for piece, start in zip(pieces, starts, strict=False)]
        )
        self.owner = np.repeat(np.arange(len(pieces)), [len(piece.faces) for piece in pieces])
        self.colour = np.concatenate([np.broadcast_to(_unit_range(p.colour), (n, 4)) for p, n in zip(pieces, counts, strict=True)])
        self.uv = np.concatenate([_or_zeros(p.uv, n, 2) for p, n in zip(pieces, counts, strict=True)])
        self.normals = np.concatenate([_or_zeros(p.normals, n, 3) for p, n in zip(pieces, counts, strict=True)])
        self.pieces, self.up = pieces, up

    def keep(self, where: NDArray[np.bool_], what: str, otherwise: str) -> None:
        """Drop faces; refuse the mesh if none is left."""
        if not where.any():
            raise DataError(what=what, got=otherwise, wanted="at least 1 face with area", try_="re-export the mesh")
        if not where.all():
            self.faces, self.owner = self.faces[where], self.owner[where]

    def fit(self, what: str) -> None:
        """Drop unused vertices, centre the box of the others at the origin, and scale the farthest to distance 1."""
        used = np.zeros(len(self.vertices), bool)
        used[self.faces] = True
        if not used.all():
            self.faces = (np.cumsum(used) - 1)[self.faces]
            for name in ("vertices", "colour", "uv", "normals"):
                setattr(self, name, getattr(self, name)[used])
        low, high = self.vertices.min(0), self.vertices.max(0)
        size = float((high - low).max())
        if not _SIZES[0] <= size <= _SIZES[1]:
            wanted = f"a size between {_SIZES[0]:g} and {_SIZES[1]:g}"
            try_ = "check the mesh: all points coincide, or its unit is absurd"
            raise DataError(what=what, got=f"a size of {size:g}", wanted=wanted, try_=try_)
        self.vertices = (self.vertices - (low + high) / 2) / size
        self.vertices /= np.sqrt(np.einsum("vi,vi->v", self.vertices, self.vertices).max())

    def mesh(self) -> Mesh:
        """What is left, with normals."""
        vertices = to_z_up(self.vertices.astype(np.float32), self.up)
        # In float32 the farthest vertex may end a hair outside.
        vertices /= max(1.0, float(np.linalg.norm(vertices, axis=1).max()))
        normals, known = _units(to_z_up(self.normals, self.up))
        # One bad normal tells that a piece's normals were never looked at.
        given = np.ones(len(self.pieces), bool)
        given[self.owner[~known[self.faces].all(1)]] = False
        faces, bare = self.faces.copy(), ~given[self.owner]
        origin = np.arange(len(vertices))
        if bare.any():
            corners, origin_of_new, made = creased(vertices, faces[bare])
            faces[bare] = corners + len(vertices)
            origin, normals = np.concatenate([origin, origin_of_new]), np.concatenate([normals, made])
            used = np.zeros(len(origin), bool)
            used[faces] = True
            faces, origin, normals = (np.cumsum(used) - 1)[faces], origin[used], normals[used]
        rows: dict[int, int] = {}  # readers give the same object for the same material
        row = np.array([rows.setdefault(id(piece.material), len(rows)) for piece in self.pieces], np.int32)
        materials = {row: piece.material for row, piece in zip(row.tolist(), self.pieces, strict=True)}
        colour = self.colour[origin].astype(np.float32)
        return Mesh(vertices[origin], faces.astype(np.int32), normals, self.uv[origin], colour, row[self.owner], tuple(materials.values()))


def _thickness(vertices: NDArray[Any], faces: NDArray[Any], *, relative: bool = False) -> NDArray[Any]:
    """[F] twice the area of faces; in squares of their longest edges, if `relative`."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    with np.errstate(all="ignore"):
        double: NDArray[Any] = np.linalg.norm(np.cross(b - a, c - a), axis=1)
        if relative:
            double /= np.maximum.reduce([np.square(one - other).sum(1) for one, other in ((a, b), (b, c), (c, a))])
    return np.where(np.isfinite(double), double, 0.0)


def _or_zeros(rows: NDArray[Any] | None, count: int, width: int) -> Float:
    if rows is None:
        return np.zeros((count, width), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.clip(np.nan_to_num(np.asarray(rows, np.float32)), -_FAR_UV, _FAR_UV)


def _unit_range(colour: NDArray[Any]) -> Float:
    return np.clip(np.nan_to_num(np.asarray(colour, np.float32)), 0, 1)


def _units(rows: Float) -> tuple[Float, NDArray[np.bool_]]:
    """Rows of length 1, and which of them had a direction."""
    length = np.linalg.norm(rows, axis=1)
    known = length > 1e-6
    return np.asarray(rows / np.where(known, length, 1)[:, None], np.float32), known
