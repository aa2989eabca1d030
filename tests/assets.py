"""Small glTF assets made by hand, in parts, so that a test can say or spoil each of them."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Json = dict[str, Any]

_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
_QUADS = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
CUBE = np.array([(a, b, c) for q in _QUADS for a, b, c in ((q[0], q[1], q[2]), (q[0], q[2], q[3]))], np.uint32)
"""[12, 3] the faces of a cube whose corners are those of `cube()`, looking outward."""


def cube() -> NDArray[np.float32]:
    """[8, 3] corners at -1 and 1."""
    return _CORNERS.copy()


@dataclass
class Asset:
    """A glTF asset in parts, to be spoilt before it is put together."""

    json: Json
    binary: bytes

    def add(self, array: NDArray[Any], kind: int, width: str, **about: Any) -> int:
        """Append an accessor with a view of its own; its number."""
        self.binary += b"\0" * (-len(self.binary) % 4)
        self.json["bufferViews"].append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": array.nbytes})
        view = len(self.json["bufferViews"]) - 1
        self.json["accessors"].append({"bufferView": view, "componentType": kind, "type": width, "count": len(array), **about})
        self.binary += array.tobytes()
        return len(self.json["accessors"]) - 1

    def glb(self) -> bytes:
        text = json.dumps(self.json).encode()
        return glb(text, self.binary)

    def gltf(self, uri: str) -> bytes:
        self.json["buffers"] = [{"uri": uri, "byteLength": len(self.binary)}]
        return json.dumps(self.json).encode()


def glb(text: bytes, binary: bytes) -> bytes:
    """The container, whatever it contains."""
    text, binary = text + b" " * (-len(text) % 4), binary + b"\0" * (-len(binary) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
    return b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body


def asset(
    vertices: NDArray[Any] | None = None,
    faces: NDArray[Any] | None = None,
    *,
    colours: NDArray[Any] | None = None,
    uv: NDArray[Any] | None = None,
    image: bytes | None = None,
    base: tuple[float, ...] = (1, 1, 1, 1),
) -> Asset:
    """One primitive with one material; a cube if nothing else is said."""
    vertices = cube() if vertices is None else vertices
    faces = CUBE if faces is None else faces
    rows: list[tuple[str, NDArray[Any], int, str]] = [
        ("POSITION", vertices.astype("<f4"), 5126, "VEC3"),
        ("", faces.astype("<u4"), 5125, "SCALAR"),
    ]
    if colours is not None:
        rows.append(("COLOR_0", colours.astype("<f4"), 5126, f"VEC{colours.shape[1]}"))
    if uv is not None or image is not None:
        rows.append(("TEXCOORD_0", (vertices[:, :2] / 2 + 0.5 if uv is None else uv).astype("<f4"), 5126, "VEC2"))
    binary, views, accessors, attributes = b"", [], [], {}
    for name, array, kind, width in rows:
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": array.nbytes})
        accessors.append({"bufferView": len(views) - 1, "componentType": kind, "type": width, "count": len(array) if name else array.size})
        if name:
            attributes[name] = len(accessors) - 1
        binary += array.tobytes()
    material: Json = {"baseColorFactor": list(base)}
    tree: Json = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 1, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": material}],
        "accessors": accessors,
        "bufferViews": views,
    }
    if image is not None:
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(image)})
        binary += image
        tree |= {"images": [{"bufferView": len(views) - 1, "mimeType": "image/png"}], "textures": [{"source": 0}]}
        material["baseColorTexture"] = {"index": 0}
    tree["buffers"] = [{"byteLength": len(binary)}]
    return Asset(tree, binary)


def write_good(path: Path, seed: int) -> None:
    """A small coloured box of some size, as .glb; another one for every seed."""
    random = np.random.default_rng(seed)
    vertices = (cube() * random.uniform(0.3, 2, 3)).astype(np.float32)
    path.write_bytes(asset(vertices, colours=random.random((8, 3)), base=(*random.uniform(0.2, 1, 3), 1)).glb())


def png(pixels: NDArray[np.uint8], form: str = "PNG") -> bytes:
    """A picture [H, W, 3 or 4] as a file."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()
