"""Stereolithography, .stl, through trimesh: loose triangles; its normals are not trusted, colours are read where there are some."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from trimesh.exchange.stl import load_stl

from mrdist.data.assets import Assets
from mrdist.data.flatten import NEUTRAL, Piece
from mrdist.data.polygons import light, split, utf8
from mrdist.errors import DataError
from mrdist.shapes import Float


def read_stl(data: bytes, assets: Assets) -> list[Piece]:
    """The triangles of a binary or text .stl, in the file's axes.

    Raises:
        DataError: truncated, or too many faces. Malformed text raises whatever trimesh raises.
    """
    claimed, starts_as_text = int.from_bytes(data[80:84], "little"), data.lstrip()[:5] == b"solid"
    # Some programs write "solid" into the header of a binary file, too: then its length tells.
    binary = len(data) == 84 + 50 * claimed or not starts_as_text
    claimed = claimed if binary else data.count(b"endfacet")
    if binary and len(data) != 84 + 50 * claimed:
        got, wanted = f"{len(data)} bytes", f"{84 + 50 * claimed} for the {claimed} faces it says (truncated?)"
        raise DataError(what=assets.name, got=got, wanted=wanted, try_="copy the file again")
    if claimed > assets.limits.faces:
        raise DataError(what=assets.name, got=f"{claimed} faces", wanted=f"at most {assets.limits.faces} faces", try_="decimate the mesh")
    loaded = load_stl(io.BytesIO(data if binary else utf8(data)))
    parts = loaded.get("geometry", {"": loaded}).values()
    pieces = []
    for part in parts:
        faces, origin, colour = np.asarray(part["faces"]), np.arange(len(part["vertices"])), NEUTRAL
        painted = _stl_colours(part.get("face_attributes", {}).get("stl"), data[:80])
        if painted is not None:
            faces, origin, colour = split(faces, painted)
        pieces.append(Piece(np.asarray(part["vertices"])[origin], faces, colour))
    return pieces


def _stl_colours(words: NDArray[np.uint16] | None, header: bytes) -> Float | None:
    """[F, 4] from the two spare bytes of each triangle, 5 bits a colour: blue first and bit 15 for "coloured" (VisCAM, SolidView),
    or red first and bit 15 for "as the whole", whose colour the header tells (Materialise Magics).
    """
    whole = header.find(b"COLOR=")
    magics = 0 <= whole <= len(header) - 10
    if words is None or not (words.any() or magics):
        return None
    marked = (words & 0x8000) != 0
    own = ~marked & words.any() if magics else marked
    if not (own.any() or magics):
        return None
    fives = np.stack([words & 31, (words >> 5) & 31, (words >> 10) & 31], axis=1)
    painted = light((fives if magics else fives[:, ::-1]).astype(np.float32) / 31)
    painted[~own] = light(np.frombuffer(header, np.uint8, 3, whole + 6)[None]) if magics else NEUTRAL
    return painted
