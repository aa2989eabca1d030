"""Coloured triangles written as binary glTF: the same triangles give the same bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ARRAY, _ELEMENTS = 34962, 34963  # glTF's numbers for what a buffer view holds
_FLOAT, _USHORT, _UINT = 5126, 5123, 5125  # and for the type of its numbers
_REPEAT, _LINEAR, _MIPMAPS = 10497, 9729, 9987  # and for how a texture is read


@dataclass(frozen=True)
class Surface:
    """Triangles of one material, y up."""

    vertices: NDArray[Any]  # [V, 3]
    faces: NDArray[Any]  # [F, 3]
    normals: NDArray[Any] | None = None  # [V, 3] unit; without them readers shade every face flat
    uv: NDArray[Any] | None = None  # [V, 2], row 0 of the texture at v = 0
    colours: NDArray[Any] | None = None  # [V, 3] linear light in 0..1
    base: tuple[float, float, float] = (1.0, 1.0, 1.0)  # linear light, times colours, times texture
    texture: bytes | None = None  # a PNG file


def glb(surfaces: Sequence[Surface]) -> bytes:
    """One .glb file: one mesh, one primitive and one material per surface."""
    store = _Store()
    primitives: list[dict[str, Any]] = []
    for surface in surfaces:
        attributes = {"POSITION": store.add(surface.vertices, "f4", "VEC3", bounds=True)}
        for name, values, width in (
            ("NORMAL", surface.normals, "VEC3"),
            ("TEXCOORD_0", surface.uv, "VEC2"),
            ("COLOR_0", surface.colours, "VEC3"),
        ):
            if values is not None:
                attributes[name] = store.add(values, "f4", width)
        kind = "u2" if len(surface.vertices) < 65535 else "u4"
        indices = store.add(surface.faces.reshape(-1), kind, "SCALAR", target=_ELEMENTS)
        material: dict[str, Any] = {
            "baseColorFactor": [*(round(float(c), 5) for c in surface.base), 1.0],
            "metallicFactor": 0.0,
            "roughnessFactor": 0.9,
        }
        if surface.texture is not None:
            material["baseColorTexture"] = {"index": store.picture(surface.texture)}
        store.materials.append({"pbrMetallicRoughness": material})
        primitives.append({"attributes": attributes, "indices": indices, "material": len(store.materials) - 1})
    return store.file(primitives)


class _Store:
    """The growing binary chunk and the tables that point into it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.materials: list[dict[str, Any]] = []

    def add(self, values: NDArray[Any], kind: str, width: str, *, target: int = _ARRAY, bounds: bool = False) -> int:
        array = np.ascontiguousarray(values, dtype=f"<{kind}")
        accessor = {
            "bufferView": self._view(array.tobytes(), target),
            "componentType": {"f4": _FLOAT, "u2": _USHORT, "u4": _UINT}[kind],
            "count": len(array),
            "type": width,
        }
        if bounds:
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def picture(self, png: bytes) -> int:
        self.images.append({"bufferView": self._view(png, None), "mimeType": "image/png"})
        return len(self.images) - 1

    def _view(self, data: bytes, target: int | None) -> int:
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        self.views.append(view if target is None else view | {"target": target})
        self.data += data + b"\0" * (-len(data) % 4)
        return len(self.views) - 1

    def file(self, primitives: list[dict[str, Any]]) -> bytes:
        tree: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "mrdist"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": primitives}],
            "materials": self.materials,
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.data)}],
        }
        if self.images:
            tree["images"] = self.images
            tree["samplers"] = [{"wrapS": _REPEAT, "wrapT": _REPEAT, "magFilter": _LINEAR, "minFilter": _MIPMAPS}]
            tree["textures"] = [{"sampler": 0, "source": n} for n in range(len(self.images))]
        words = json.dumps(tree, separators=(",", ":")).encode()
        words += b" " * (-len(words) % 4)
        chunks = struct.pack("<I4s", len(words), b"JSON") + words + struct.pack("<I4s", len(self.data), b"BIN\0") + bytes(self.data)
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
