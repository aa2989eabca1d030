"""Wavefront .obj with its .mtl, through trimesh: polygons, materials, textures, vertex colours."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
from trimesh.exchange.obj import load_obj

from mrdist.data.assets import Assets, picture
from mrdist.data.colour import linear
from mrdist.data.faults import MachineFault
from mrdist.data.flatten import NEUTRAL, Piece
from mrdist.data.mesh import Material
from mrdist.data.polygons import fans, light, utf8
from mrdist.errors import DataError
from mrdist.shapes import Bytes


def read_obj(data: bytes, assets: Assets) -> list[Piece]:
    """The triangles of an .obj, one piece per material, in the file's axes.

    A texture stands alone (no Kd beside it); else vertex colours, else Kd, else grey.

    Raises:
        DataError: too many faces, or a neighbour (.mtl, texture) that may not be read. Malformed text raises whatever trimesh raises.
    """
    claimed = len(re.findall(rb"^f\s", data, re.MULTILINE))
    if claimed > assets.limits.faces:
        raise DataError(what=assets.name, got=f"{claimed} faces", wanted=f"at most {assets.limits.faces} faces", try_="decimate the mesh")
    neighbours = _Neighbours(assets)
    loaded = load_obj(io.BytesIO(_counted_from_the_start(utf8(data))), resolver=cast(Any, neighbours))
    if neighbours.refusal is not None:
        raise neighbours.refusal
    return [_obj_piece(part, neighbours) for part in loaded.get("geometry", {}).values()]


class _Neighbours:
    """What trimesh may ask for by name while it reads an .obj. It goes on without what it does not get, so refusals are kept here."""

    def __init__(self, assets: Assets) -> None:
        self.assets = assets
        self.refusal: DataError | MachineFault | None = None
        self.pictures: dict[str, Bytes] = {}

    def get(self, name: str) -> bytes:
        # "map_Kd -s 2 2 1 wood.png": options come first.
        place = (name.rsplit(maxsplit=1)[-1] if name.startswith("-") else name).replace("\\", "/")
        try:
            if place.lower().endswith(".mtl"):
                return utf8(self._materials(place))
            data = self.assets.read(place)
            self.pictures[name] = picture(data, self.assets.limits.texture_pixels, f"{self.assets.name}, texture {place[:80]!r}")
            return data
        except (DataError, MachineFault) as error:
            self.refusal = self.refusal or error
            raise

    def _materials(self, place: str) -> bytes:
        try:
            return self.assets.read(place)
        except FileNotFoundError:
            # Renamed together, the .obj still says the old name.
            return self.assets.read(str(Path(self.assets.name).with_suffix(".mtl")))

    __getitem__ = get


def _counted_from_the_start(data: bytes) -> bytes:
    """An .obj whose faces count backwards from where they stand (f -3 -2 -1) with plain numbers: trimesh counts from the end."""
    if not re.search(rb"^f\s[^\n]*-", data, re.MULTILINE):
        return data
    counts = {b"v": 0, b"vt": 0, b"vn": 0}
    lines = data.splitlines()
    for i, line in enumerate(lines):
        words = line.split()
        if not words:
            continue
        if words[0] in counts:
            counts[words[0]] += 1
        elif words[0] == b"f":
            so_far = tuple(counts.values())
            corners = [_plain(corner.split(b"/"), so_far) for corner in words[1:]]
            lines[i] = b"f " + b" ".join(corners)
    return b"\n".join(lines) + b"\n"


def _plain(references: list[bytes], so_far: tuple[int, ...]) -> bytes:
    numbers = [word and int(word) for word in references]
    plain = [
        number + count + 1 if isinstance(number, int) and number < 0 else number for number, count in zip(numbers, so_far, strict=False)
    ]
    if any(isinstance(number, int) and number < 1 for number in plain):
        raise IndexError(f"index out of range: {b'/'.join(references).decode('ascii', 'replace')}")
    return b"/".join(b"%d" % number if isinstance(number, int) else number for number in plain)


def _obj_piece(part: dict[str, Any], neighbours: _Neighbours) -> Piece:
    polygons = np.asarray(part["faces"])
    triangles, _ = fans(np.full(len(polygons), polygons.shape[1] if polygons.ndim == 2 else 0))
    faces, vertices = polygons.ravel()[triangles], part["vertices"]
    uv = getattr(part["visual"], "uv", None)
    material = getattr(part["visual"], "material", None)
    said: dict[str, Any] = getattr(material, "kwargs", {})
    image = getattr(material, "image", None)
    texture = neighbours.pictures.get(image.info.get("file_path", "")) if image is not None else None
    colours = part.get("vertex_colors")
    alpha = _alpha(said)
    if texture is not None and uv is not None and len(uv) == len(vertices):
        # The picture alone, as most programs show it: exporters write any Kd beside it, often black.
        colour = np.array([1, 1, 1, alpha], np.float32)
        uv = np.column_stack([uv[:, 0], 1 - uv[:, 1]])
    else:
        texture = uv = None
        if colours is not None and len(colours) == len(vertices):
            colour = light(np.asarray(colours))
            colour[:, 3] *= alpha
        elif "kd" in said:
            colour = np.append(linear(np.broadcast_to(np.clip(said["kd"], 0, 1), 3)), np.float32(alpha))
        else:
            colour = NEUTRAL
    kind = "mask" if "map_d" in said and texture is not None else "blend" if alpha < 1 else "opaque"
    return Piece(vertices, faces, colour, part.get("vertex_normals"), uv, Material(texture, kind))  # type: ignore[arg-type]


def _alpha(said: dict[str, Any]) -> float:
    """How opaque a material is. One that cannot be seen at all is a mistake: `d` and `Tr` are often exchanged."""
    alpha = float(said["d"][-1]) if "d" in said else 1 - float(said["tr"][-1]) if "tr" in said else 1.0
    return alpha if 0 < alpha < 1 else 1.0
