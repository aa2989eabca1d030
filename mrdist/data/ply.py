"""Stanford's .ply, text or binary: meshes of any polygons, or only points, with colours and a texture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrdist.data.assets import Assets, picture
from mrdist.data.flatten import NEUTRAL, Piece
from mrdist.data.mesh import Material
from mrdist.data.polygons import fans, light, numbers, split
from mrdist.errors import DataError
from mrdist.shapes import Float

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_COLOURS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
_TEXCOORDS = (("texture_u", "texture_v"), ("u", "v"), ("s", "t"))
_INDICES = ("vertex_indices", "vertex_index")

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Ply:
    """What a .ply holds: `vertices [V, 3]` and `colour [V, 4]` (linear light and alpha) or None, and triangles if there are any."""

    vertices: NDArray[Any]
    colour: Float | None
    pieces: list[Piece]


@dataclass
class _Element:
    name: str
    count: int
    properties: list[tuple[str, str, str]] = field(default_factory=list)  # name, type, type of the length or ""
    meant: dict[str, str] = field(default_factory=dict)  # the types that text stands for


def read_ply(data: bytes, assets: Assets) -> Ply:
    """The vertices and triangles of a .ply, in the file's axes.

    Colours of faces win over colours of vertices; a texture (`comment TextureFile ...`, with coordinates per vertex or per corner)
    wins over both; a texture file that is missing is no texture.

    Raises:
        DataError: truncated or too large. A malformed header raises whatever Python makes of it.
    """
    elements, body, picture_name = _header(data, assets)
    held: dict[str, Columns] = {}
    offset = 0
    for element in elements:
        columns, offset = _columns(body, offset, element, assets)
        with np.errstate(invalid="ignore"):
            held[element.name] = {name: rows.astype(element.meant.get(name, rows.dtype)) for name, rows in columns.items()}
    vertex, face = held["vertex"], held.get("face", {})
    vertices = np.column_stack([vertex[axis] for axis in "xyz"])
    colour = _colour(vertex)
    which = next((name for name in _INDICES if name in face), None)
    if which is None:
        return Ply(vertices, colour, [])
    corners = face[which].astype(np.int64)
    triangles, polygon = fans(face[f"{which} length"])
    faces, normals, uv = corners[triangles], _stack(vertex, ("nx", "ny", "nz")), _texcoords(vertex, face, corners)
    texture = _texture(picture_name, assets) if uv is not None else None
    if uv is not None and texture is not None:
        # Coordinates belong to corners; vertices at the same place are recognised again where normals are made.
        uv = np.column_stack([uv[:, 0], 1 - uv[:, 1]])
        normals = None if normals is None else normals[corners]
        white = np.ones(4, np.float32)
        return Ply(vertices, colour, [Piece(vertices[corners], triangles, white, normals, uv, Material(texture))])
    shade, of_faces = NEUTRAL if colour is None else colour, _colour(face)
    origin = np.arange(len(vertices))
    if of_faces is not None:
        in_range = (faces >= 0) & (faces < len(vertices))
        if in_range.all():  # otherwise flatten() says what is wrong
            faces, origin, shade = split(faces, of_faces[polygon])
    normals = None if normals is None else normals[origin]
    opaque = shade[..., 3].min() >= 1 if shade.size else True
    return Ply(vertices, colour, [Piece(vertices[origin], faces, shade, normals, material=Material(alpha="opaque" if opaque else "blend"))])


def _header(data: bytes, assets: Assets) -> tuple[list[_Element], bytes, str]:
    """The elements in order, the bytes behind the header, and the name of the texture or ""."""
    end = data.find(b"end_header")
    line_end = data.find(b"\n", end)
    if not data.startswith(b"ply") or end < 0 or line_end < 0:
        raise _refused(assets, "no header from 'ply' to 'end_header'", "a header", "export the file again")
    form, texture, elements = "", "", list[_Element]()
    for line in data[:end].decode("ascii", "replace").splitlines():
        match line.split():
            case ["format", form, *_]:
                pass
            case ["comment", "TextureFile", *_]:
                texture = line.split(None, 2)[2].strip()
            case ["element", name, count]:
                elements.append(_Element(name, int(count)))
            case ["property", "list", length, kind, name]:
                elements[-1].properties.append((name, _TYPES[kind], _TYPES[length]))
            case ["property", kind, name]:
                elements[-1].properties.append((name, _TYPES[kind], ""))
    body = data[line_end + 1 :]
    if form == "ascii":
        # As text all numbers are alike: from here on the file is a binary one of doubles.
        for element in elements:
            element.meant = {name: kind for name, kind, _ in element.properties}
            element.properties = [(name, "<f8", "<f8" if length else "") for name, _, length in element.properties]
        return elements, numbers(body).tobytes(), texture
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}[form]
    for element in elements:
        element.properties = [(name, order + kind, length and order + length) for name, kind, length in element.properties]
    return elements, body, texture


def _columns(body: bytes, offset: int, element: _Element, assets: Assets) -> tuple[Columns, int]:
    """The columns of an element, and where the next one begins. A list column holds all its items; `<name> length` says how many each."""
    most = 3 * assets.limits.faces
    if not 0 <= element.count <= most:
        raise _refused(assets, f"{element.count} of element {element.name}", f"at most {most}", "decimate it, or raise limits.faces")
    if element.count == 0 or not element.properties:
        return {name: np.zeros(0) for name, _, _ in element.properties}, offset
    lists = [name for name, _, length in element.properties if length]
    sizes, _ = _row(body, offset, element, assets)
    row = np.dtype([part for name, kind, length in element.properties for part in _fields(name, kind, length, sizes)])
    if offset + element.count * row.itemsize <= len(body):
        rows = np.frombuffer(body, row, element.count, offset)
        if all((rows[f"{name} length"] == sizes[name]).all() for name in lists):
            found = {name: rows[name] for name in row.names or ()}
            found.update({name: rows[name].ravel() for name in lists})
            return found, offset + element.count * row.itemsize
    if not lists:
        raise _truncated(assets, element)
    return _ragged(body, offset, element, assets)


def _fields(name: str, kind: str, length: str, sizes: dict[str, int]) -> list[tuple[Any, ...]]:
    return [(f"{name} length", length), (name, kind, (sizes[name],))] if length else [(name, kind)]


def _row(body: bytes, offset: int, element: _Element, assets: Assets) -> tuple[dict[str, int], dict[str, int]]:
    """The lengths of the lists of the row at `offset`, and where each property starts; "" is where the row ends."""
    sizes, starts = {}, {}
    for name, kind, length in element.properties:
        count = 1
        if length:
            wide = int(length[-1])
            if offset + wide > len(body):
                raise _truncated(assets, element)
            count = sizes[name] = int(np.frombuffer(body, length, 1, offset)[0])
            offset += wide
        starts[name] = offset
        offset += count * int(kind[-1])
        if count < 0 or offset > len(body):
            raise _truncated(assets, element)
    return sizes, starts | {"": offset}


def _ragged(body: bytes, offset: int, element: _Element, assets: Assets) -> tuple[Columns, int]:
    """Rows of different lengths, one by one: triangles among quadrangles."""
    found: dict[str, list[NDArray[Any]]] = {name: [] for name, _, _ in element.properties}
    lengths: dict[str, list[int]] = {f"{name} length": [] for name, _, length in element.properties if length}
    for _ in range(element.count):
        sizes, starts = _row(body, offset, element, assets)
        for name, kind, _ in element.properties:
            found[name].append(np.frombuffer(body, kind, sizes.get(name, 1), starts[name]))
        for name, size in sizes.items():
            lengths[f"{name} length"].append(size)
        offset = starts[""]
    return {name: np.concatenate(parts) for name, parts in found.items()} | {k: np.array(v) for k, v in lengths.items()}, offset


def _stack(columns: Columns, names: tuple[str, ...]) -> NDArray[Any] | None:
    return np.column_stack([columns[name] for name in names]) if all(name in columns for name in names) else None


def _colour(columns: Columns) -> Float | None:
    found = next((rows for rows in (_stack(columns, names) for names in _COLOURS) if rows is not None), None)
    if found is None or not len(found):
        return None
    if "alpha" in columns:
        found = np.column_stack([found, columns["alpha"]])
    return light(found)


def _texcoords(vertex: Columns, face: Columns, corners: NDArray[Any]) -> NDArray[Any] | None:
    """[corners, 2] texture coordinates, v upwards."""
    if "texcoord" in face and len(face["texcoord"]) == 2 * len(corners):
        return face["texcoord"].reshape(-1, 2)
    found = next((rows for rows in (_stack(vertex, names) for names in _TEXCOORDS) if rows is not None), None)
    return None if found is None else found[corners]


def _texture(name: str, assets: Assets) -> NDArray[np.uint8] | None:
    if not name:
        return None
    try:
        return picture(assets.read(name.replace("\\", "/")), assets.limits.texture_pixels, f"{assets.name}, texture {name[:80]!r}")
    except FileNotFoundError:
        return None


def _truncated(assets: Assets, element: _Element) -> DataError:
    return _refused(assets, f"fewer numbers than {element.count} of element {element.name} need", "a whole file", "copy the file again")


def _refused(assets: Assets, got: str, wanted: str, try_: str) -> DataError:
    return DataError(what=assets.name, got=got, wanted=wanted, try_=try_)
