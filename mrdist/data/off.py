"""Geomview's .off: polygons with colours of vertices or faces. (trimesh reads it without its colours.)"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from mrdist.data.assets import Assets
from mrdist.data.flatten import NEUTRAL, Piece
from mrdist.data.mesh import Material
from mrdist.data.polygons import fans, light, numbers, split
from mrdist.errors import DataError

# ModelNet glues the counts to the word: "OFF490 518 0".
_HEADER = re.compile(rb"\A\s*(ST)?(C)?(N)?OFF\s*(?!BINARY)", re.ASCII)


def read_off(data: bytes, assets: Assets) -> list[Piece]:
    """The triangles of a text .off, in the file's axes.

    Raises:
        DataError: not an .off, or not as long as it says. Malformed numbers raise whatever Python makes of them.
    """

    def refused(got: str, wanted: str) -> DataError:
        return DataError(what=assets.name, got=got, wanted=wanted, try_="export it again, as text")

    head = _HEADER.match(data)
    if head is None:
        raise refused(f"a file that begins with {data[:8]!r}", "a file that begins with 'OFF' and text")
    lines = [line for line in (line.partition(b"#")[0].strip() for line in data[head.end() :].splitlines()) if line]
    count, polygons = (int(word) for word in lines[0].split()[:2])
    if count < 0 or polygons < 0 or len(lines) < 1 + count + polygons:
        raise refused(f"{len(lines) - 1} lines", f"{count} vertices and {polygons} faces")
    if polygons > assets.limits.faces:
        raise refused(f"{polygons} faces", f"at most {assets.limits.faces}")
    columns = len(lines[1].split()) if count else 3
    rows = numbers(lines[1 : 1 + count])
    if len(rows) != count * columns:
        raise refused("vertices of different lengths, or words among them", f"{columns} numbers each")
    rows = rows.reshape(count, columns)
    normals, first = (rows[:, 3:6], 6) if head[3] and columns >= 6 else (None, 3)
    wide = columns - first - (2 if head[1] else 0)
    # Colours need a C in front, but many write them without.
    shaded = wide in (3, 4) and (head[2] is not None or normals is None)
    colour = light(rows[:, first : first + wide]) if shaded else NEUTRAL
    lengths, corners, paint = _polygons(lines[1 + count : 1 + count + polygons])
    triangles, polygon = fans(lengths)
    faces = corners[triangles]
    origin = np.arange(count)
    if paint is not None and (corners >= 0).all() and (corners < count).all():
        faces, origin, colour = split(faces, light(paint)[polygon])
    opaque = colour.size == 0 or colour[..., 3].min() >= 1
    material = Material(alpha="opaque" if opaque else "blend")
    return [Piece(rows[origin, :3], faces, colour, None if normals is None else normals[origin], material=material)]


def _polygons(lines: list[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64] | None]:
    """Corners per polygon, all corners, and [P, 3 or 4] colours if every polygon has one."""
    if not lines:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), None
    words = len(lines[0].split())
    flat = numbers(lines)
    if len(flat) == words * len(lines) and (flat[::words] == flat[0]).all():
        rows, size = flat.reshape(-1, words), int(flat[0])
        if words < 1 + size:
            raise ValueError("a face with fewer corners than it says")
        paint = rows[:, 1 + size :] if words - 1 - size in (3, 4) else None
        return np.full(len(rows), size, np.int64), rows[:, 1 : 1 + size].astype(np.int64).ravel(), paint
    ragged = [numbers(line) for line in lines]
    if any(len(row) < 1 or len(row) < 1 + int(row[0]) for row in ragged):
        raise ValueError("a face with fewer corners than it says")
    sizes = [int(row[0]) for row in ragged]
    extra = [row[1 + size :] for row, size in zip(ragged, sizes, strict=True)]
    painted = all(len(colour) in (3, 4) for colour in extra) and len({len(colour) for colour in extra}) == 1
    corners = np.concatenate([row[1 : 1 + size] for row, size in zip(ragged, sizes, strict=True)])
    return np.array(sizes, np.int64), corners.astype(np.int64), np.stack(extra) if painted else None
