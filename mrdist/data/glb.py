"""The container of glTF 2.0: JSON, buffers, accessors and images of .glb and .gltf, every offset checked."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from mrdist.data.assets import Assets, picture
from mrdist.errors import DataError
from mrdist.shapes import Bytes

_JSON, _BINARY = 0x4E4F534A, 0x004E4942
_JSON_BYTES = 64 << 20  # Python objects take ten times as much
_NUMBERS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_COMPRESSED = {
    "KHR_draco_mesh_compression": "Draco compressed",
    "EXT_meshopt_compression": "meshopt compressed",
    "KHR_meshopt_compression": "meshopt compressed",
    "KHR_texture_basisu": "KTX2 textured",
}
_UNDERSTOOD = {"KHR_mesh_quantization", "KHR_texture_transform", "EXT_texture_webp", "KHR_lights_punctual", "KHR_xmp_json_ld"}


class Gltf:
    """The parts of one glTF file by number; whatever points outside the file's own bytes is refused.

    A .glb holds everything itself: an address in it is refused. A .gltf names files, which `Assets` opens, or holds them as
    data: addresses. Sparse accessors are read; Draco, meshopt and KTX2 are refused by name if the file cannot do without.
    """

    def __init__(self, data: bytes, assets: Assets) -> None:
        self.what, self.assets = assets.name, assets
        self._buffers: dict[int, memoryview] = {}
        self._images: dict[int, Bytes] = {}
        self.binary = data[:4] == b"glTF" or assets.name.lower().endswith(".glb")
        text = self._chunks(data) if self.binary else data
        if len(text) > _JSON_BYTES:
            raise self.refused(f"{len(text)} bytes of JSON", f"at most {_JSON_BYTES}", "move data into buffers")
        self.json: dict[str, Any] = json.loads(bytes(text))
        version = self.json["asset"]["version"]
        if not str(version).startswith("2."):
            raise self.refused(f"glTF version {version}", "2.x", "convert the file")
        for name in self.json.get("extensionsRequired", []):
            if not (name in _UNDERSTOOD or name.startswith("KHR_materials_")):
                got = f"{_COMPRESSED[name]} data" if name in _COMPRESSED else "an unknown way of storing data"
                raise self.refused(f"{got} (it requires {name})", "plain glTF 2.0", "decompress it, for example with gltf-transform")

    def _chunks(self, data: bytes) -> memoryview:
        """The JSON of a .glb; keeps the binary chunk as buffer 0."""
        if len(data) < 20 or data[:4] != b"glTF":
            raise self.refused(f"{len(data)} bytes that begin with {data[:4]!r}", "a header that begins with b'glTF'", "export it again")
        version, length = struct.unpack_from("<II", data, 4)
        if version != 2 or length > len(data):
            got = f"version {version} and {len(data)} of {length} bytes"
            raise self.refused(got, "version 2, not truncated", "copy the file again")
        view, offset = memoryview(data)[:length], 12
        found: dict[int, memoryview] = {}
        while offset + 8 <= length:
            size, kind = struct.unpack_from("<II", data, offset)
            if offset + 8 + size > length:
                raise self.refused("a chunk that ends behind the file", "chunks inside the file", "copy the file again")
            found.setdefault(kind, view[offset + 8 : offset + 8 + size])
            offset += 8 + size
        if _JSON not in found:
            raise self.refused("no JSON chunk", "one JSON chunk", "export it again")
        self._buffers = {0: found[_BINARY]} if _BINARY in found else {}
        return found[_JSON]

    def refused(self, got: str, wanted: str, try_: str) -> DataError:
        return DataError(what=self.what, got=got, wanted=wanted, try_=try_)

    def part(self, group: str, number: object) -> dict[str, Any]:
        """Object `number` of a top-level list, such as "meshes"."""
        parts = self.json.get(group, [])
        if not isinstance(number, int) or not 0 <= number < len(parts):
            raise self.refused(f"{group}[{number!r}]", f"a number below {len(parts)}", "export it again")
        found: dict[str, Any] = parts[number]
        return found

    def accessor(self, number: int) -> NDArray[Any]:
        """[count, width] numbers as they are stored, or float32 where the file says that they are normalised integers."""
        about = self.part("accessors", number)
        count, width = self._whole(about, "count"), _WIDTHS[about["type"]]
        dtype = np.dtype(_NUMBERS[about["componentType"]])
        most = 3 * self.assets.limits.faces
        if count > most:
            raise self.refused(f"an accessor of {count} rows", f"at most {most}, three per allowed face", "raise limits.faces")
        if "bufferView" in about:
            rows = self._rows(about, count, width, dtype)
        elif "sparse" in about:
            rows = np.zeros((count, width), dtype)
        else:
            raise self.refused("an accessor without data", "a bufferView", "decompress or export it again")
        if "sparse" in about:
            few = about["sparse"]
            changes = self._whole(few, "count")
            where = self._rows(few["indices"], changes, 1, np.dtype(_NUMBERS[few["indices"]["componentType"]]))[:, 0]
            rows = rows.copy()
            rows[where] = self._rows(few["values"], changes, width, dtype)
        if about.get("normalized") and dtype.kind != "f":
            return np.asarray(rows / np.float32(2 ** (8 * dtype.itemsize - (dtype.kind == "i")) - 1), np.float32).clip(-1)
        return rows

    def _rows(self, about: dict[str, Any], count: int, width: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        view, stride = self._view(about["bufferView"])
        offset, stride = self._whole(about, "byteOffset"), stride or dtype.itemsize * width
        if count and offset + (count - 1) * stride + dtype.itemsize * width > len(view):
            raise self.refused(f"{count} rows in a view of {len(view)} bytes", "an accessor inside its view", "export it again")
        if count == 0:
            return np.zeros((0, width), dtype)
        return np.ndarray((count, width), dtype, view, offset, (stride, dtype.itemsize)).copy()

    def _view(self, number: int) -> tuple[memoryview, int]:
        about = self.part("bufferViews", number)
        buffer = self._buffer(self._whole(about, "buffer"))
        start, size = self._whole(about, "byteOffset"), self._whole(about, "byteLength")
        if start + size > len(buffer):
            got = f"a view of bytes {start} to {start + size} of {len(buffer)}"
            raise self.refused(got, "views inside their buffer (truncated?)", "copy or export the file again")
        return buffer[start : start + size], self._whole(about, "byteStride")

    def _whole(self, about: dict[str, Any], key: str) -> int:
        value = about.get(key, 0)
        if not isinstance(value, int) or not 0 <= value < 1 << 40:
            raise self.refused(f"{key} = {value!r:.40}", "a whole number, not negative", "export it again")
        return value

    def _buffer(self, number: int) -> memoryview:
        if number not in self._buffers:
            self._buffers[number] = memoryview(self._fetch(self.part("buffers", number), "a buffer"))
        return self._buffers[number]

    def _fetch(self, about: dict[str, Any], what: str) -> bytes:
        address = about.get("uri")
        if not isinstance(address, str):
            raise self.refused(f"{what} without data", "data inside the file", "export it again")
        if address.startswith("data:"):
            try:
                return base64.b64decode(address.partition(",")[2], validate=True)
            except binascii.Error as error:
                raise self.refused(f"{what} that is not base64 ({error})", "base64", "export it again") from None
        if self.binary:
            raise self.refused(f"{what} elsewhere: {address[:80]!r}", "a .glb that holds everything itself", "embed it, or use .gltf")
        try:
            return self.assets.read(unquote(address))
        except FileNotFoundError:
            raise self.refused(f"{what} that is missing: {address[:80]!r}", "a file beside it", "copy all files of the asset") from None

    def texture(self, number: int) -> Bytes:
        """[H, W, 4] the picture of a texture, each image decoded once."""
        about = self.part("textures", number)
        webp = about.get("extensions", {}).get("EXT_texture_webp", {})
        source = webp.get("source", about.get("source"))
        if source not in self._images:
            image = self.part("images", source)
            data = bytes(self._view(image["bufferView"])[0]) if "bufferView" in image else self._fetch(image, "an image")
            self._images[source] = picture(data, self.assets.limits.texture_pixels, f"{self.what}, image {source}")
        return self._images[source]
