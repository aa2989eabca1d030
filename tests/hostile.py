"""Mesh files that nobody should have to read, each with the reason that is expected; and good ones to put between them."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrdist.data.readers import read_mesh
from mrdist.recipe import Limits
from tests.assets import CUBE, Json, asset, cube, glb, png, write_good

__all__ = ["LIMITS", "expected", "read", "write_good", "write_hostile"]

LIMITS = Limits(seconds=300, memory_mb=1024, file_mb=16, faces=50_000, texture_pixels=256)
"""What the hostile files are meant to exceed."""


def _changed(change: Callable[[Json], object], **parts: Any) -> bytes:
    made = asset(**parts)
    change(made.json)
    return made.glb()


def _nodes(nodes: list[Json]) -> bytes:
    return _changed(lambda tree: tree.update(nodes=nodes))


def _needs(extension: str) -> bytes:
    return _changed(lambda tree: tree.update(extensionsRequired=[extension], extensionsUsed=[extension]))


def _index(value: int) -> bytes:
    faces = CUBE.copy()
    faces[5, 1] = value
    return asset(faces=faces).glb()


def _claimed_png(side: int) -> bytes:
    """A picture whose header claims more than it has."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1 << 16))) + chunk(b"IEND", b"")


def _containers() -> dict[str, tuple[bytes, str]]:
    whole = asset().glb()
    return {
        "truncated.glb": (whole[:-200], "of .* bytes"),
        "only-a-header.glb": (whole[:16], "header"),
        "empty.glb": (b"", "0 bytes"),
        "wrong-magic.glb": (b"glTG" + whole[4:], "header"),
        "not-a-mesh.glb": (b"<html>404 not found</html>" * 20, "header"),
        "version-1.glb": (whole[:4] + struct.pack("<I", 1) + whole[8:], "version 1"),
        "chunk-behind-the-end.glb": (whole[:12] + struct.pack("<I", 1 << 30) + whole[16:], "chunk"),
        "deep-json.glb": (glb(b'{"asset":' + b"[" * 200_000 + b"]" * 200_000 + b"}", b""), "RecursionError"),
        "noise-for-json.glb": (glb(b"{" + random_bytes(64), b""), "malformed"),
        "needs-draco.glb": (_needs("KHR_draco_mesh_compression"), "Draco"),
        "needs-meshopt.glb": (_needs("EXT_meshopt_compression"), "meshopt"),
        "needs-ktx2.glb": (_needs("KHR_texture_basisu"), "KTX2"),
        "needs-the-unknown.glb": (_needs("ACME_wormholes"), "ACME_wormholes"),
    }


def _geometry() -> dict[str, tuple[bytes, str]]:
    def accessor(number: int, count: int) -> bytes:
        return _changed(lambda tree: tree["accessors"][number].update(count=count))

    def view(**change: int) -> bytes:
        return _changed(lambda tree: tree["bufferViews"][0].update(change))

    return {
        "zero-faces.glb": (accessor(1, 0), "0 faces"),
        "huge-count.glb": (accessor(0, 2_000_000_000), "at most"),
        "count-behind-the-view.glb": (accessor(1, 9999), "view"),
        "negative-offset.glb": (view(byteOffset=-64), "negative"),
        "view-behind-the-buffer.glb": (view(byteLength=1 << 33), "buffer"),
        "negative-accessor.glb": (_changed(lambda tree: tree["meshes"][0]["primitives"][0].update(indices=-1)), "accessors"),
        "index-out-of-range.glb": (_index(4_000_000), "index out of range"),
        "index-all-ones.glb": (_index(0xFFFFFFFF), "index out of range"),
        "nan-everywhere.glb": (asset(np.full((8, 3), np.nan)).glb(), "not finite"),
        "one-point.glb": (asset(np.ones((8, 3))).glb(), "coincide"),
        "one-line.glb": (asset(cube() * (1, 0, 0)).glb(), "no area"),
        "size-of-1e38.glb": (asset(cube() * 1e38).glb(), r"a size of 2e\+38"),
        "size-of-1e-30.glb": (asset(cube() * 1e-30).glb(), "a size of 2e-30"),
        "too-many-faces.glb": (asset(faces=np.tile(CUBE, (4200, 1))).glb(), "at most"),
    }


def _scenes() -> dict[str, tuple[bytes, str]]:
    chain: list[Json] = [{"children": [i + 1]} for i in range(100_001)]
    laughs: list[Json] = [{"children": [i + 1, i + 1]} for i in range(30)]
    crowd: list[Json] = [{"children": list(range(1, 9000))}, *({"mesh": 0} for _ in range(9000))]
    return {
        "empty-scene.glb": (_changed(lambda tree: tree["scenes"][0].update(nodes=[])), "0 faces"),
        "node-cycle.glb": (_nodes([{"mesh": 0, "children": [1]}, {"mesh": 0, "children": [0]}]), "twice"),
        "node-chain.glb": (_nodes([*chain, {"mesh": 0}]), "nodes"),
        "billion-laughs.glb": (_nodes([*laughs, {"mesh": 0}]), "twice"),
        "many-instances.glb": (_nodes(crowd), "more than"),
    }


def _materials() -> dict[str, tuple[bytes, str]]:
    jpeg = png(np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8), "JPEG")
    pictures = {
        "png-bomb.glb": (_claimed_png(30_000), "bomb"),
        "png-bomb-below-pillows-limit.glb": (_claimed_png(9_000), "9000 x 9000"),
        "png-of-noise.glb": (b"\x89PNG\r\n\x1a\n" + random_bytes(400), "cannot be read"),
        "jpeg-cut-in-half.glb": (jpeg[: len(jpeg) // 2], "cannot be read"),
    }
    return {name: (asset(image=image).glb(), reason) for name, (image, reason) in pictures.items()}


def _addresses(secrets: Path) -> dict[str, tuple[bytes, str]]:
    def elsewhere(tree: Json) -> None:
        tree["buffers"].append({"uri": "x.bin"})
        tree["bufferViews"][0]["buffer"] = 1

    named = {
        "uri-above": (f"../{secrets.name}/secret.bin", "outside"),
        "uri-escaped-above": (f"%2e%2e/{secrets.name}/secret.bin", "outside"),
        "uri-absolute": (str(secrets / "secret.bin"), "outside"),
        "uri-through-a-link": ("link.bin", "outside"),
        "uri-fifo": ("fifo.bin", "regular file"),
        "uri-endless": ("/dev/zero", "outside"),
        "uri-web": ("http://127.0.0.1:9/x.bin", "missing"),
        "uri-not-base64": ("data:application/octet-stream;base64,@@@@", "base64"),
    }
    found = {f"{name}.gltf": (asset().gltf(address), reason) for name, (address, reason) in named.items()}
    return found | {"glb-that-refers.glb": (_changed(elsewhere), "elsewhere")}


def _obj(*, mtl: str = "", faces: str = "f 1/1 2/2 3/3\nf 1/1 3/3 4/4\n") -> bytes:
    head = f"mtllib {mtl}\nusemtl paint\n" if mtl else ""
    return f"{head}v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 1\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n{faces}".encode()


def _wavefront(folder: Path, secrets: Path) -> dict[str, tuple[bytes, str]]:
    pictures = {"absolute": str(secrets / "secret.png"), "endless": "/dev/zero", "through-a-link": "link.bin"}
    for name, picture in pictures.items():
        (folder / f"{name}.mtl").write_text(f"newmtl paint\nKd 1 1 1\nmap_Kd {picture}\n")
    return {
        "noise.obj": (random_bytes(50_000), "0 faces|malformed"),
        "no-faces.obj": (_obj(faces=""), "0 faces"),
        "index-out-of-range.obj": (_obj(faces="f 1 2 3\nf 1 2 999999\n"), "out of bounds"),
        "negative-index.obj": (_obj(faces="f -1 -2 -3\nf -1 -2 -30\n"), "index out of range"),
        "mtl-above.obj": (_obj(mtl=f"../{secrets.name}/secret.mtl"), "outside"),
        "mtl-fifo.obj": (_obj(mtl="fifo.bin"), "regular file"),
    } | {f"texture-{name}.obj": (_obj(mtl=f"{name}.mtl"), "outside") for name in pictures}


def _others() -> dict[str, tuple[bytes, str]]:
    def ply(body: bytes, form: str = "ascii", vertices: int = 4) -> bytes:
        head = f"ply\nformat {form} 1.0\nelement vertex {vertices}\nproperty float x\nproperty float y\nproperty float z\n"
        return f"{head}element face 2\nproperty list uchar int vertex_indices\nend_header\n".encode() + body

    binary = "binary_little_endian"
    triangle = struct.pack("<12fH", 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0)
    return {
        "huge-count.ply": (ply(b"", binary, 2_000_000_000), "at most"),
        "truncated.ply": (ply(bytes(40), binary), "fewer numbers"),
        "endless-list.ply": (ply(bytes(48) + b"\xff\0\0\0\0", binary), "fewer numbers"),
        "negative-index.ply": (ply(b"0 0 0\n1 0 0\n1 1 0\n0 1 1\n3 0 1 2\n3 0 1 -2\n"), "index out of range"),
        "without-end.ply": (b"ply\nformat ascii 1.0\nelement vertex 3\n", "header"),
        "huge-count.off": (b"OFF\n2000000000 2000000000 0\n0 0 0\n", "2000000000"),
        "index-out-of-range.off": (b"OFF\n3 2 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n3 0 1 99999\n", "index out of range"),
        "words.off": (b"OFF\n3 1 0\n0 0 0\n1 zero 0\n0 1 0\n3 0 1 2\n", "words|malformed"),
        "huge-count.stl": (bytes(80) + struct.pack("<I", 4_000_000_000) + bytes(100), "truncated"),
        "truncated.stl": (bytes(80) + struct.pack("<I", 3) + triangle * 2, "truncated"),
        "text-without-end.stl": (b"solid x\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0", "0 faces|malformed"),
    }


_SPECIAL = {
    "a-fifo.glb": "regular file",
    "a-folder.glb": "directory",
    "a-link.glb": "outside",
    "a-loop.glb": "symbolic links",
    "a-stranger.fbx": "one of",
    "a-gap.glb": "no such file",
}


def random_bytes(count: int) -> bytes:
    return np.random.default_rng(count).bytes(count)


@cache
def _kinds(folder: Path, secrets: Path) -> dict[str, tuple[bytes, str]]:
    """Name of every kind, the bytes of such a file, and what the reason for refusing it must say."""
    parts = (_containers(), _geometry(), _scenes(), _materials(), _addresses(secrets), _wavefront(folder, secrets), _others())
    return {name: made for part in parts for name, made in part.items()}


def _secrets(folder: Path) -> Path:
    return folder.parent / f"{folder.name}-outside"


def write_hostile(folder: Path, copies: int = 1) -> list[Path]:
    """`copies` files of every kind in `folder`, which is the root that a reader must not leave; what it must not see lies beside it."""
    outside = _secrets(folder)
    for place in (folder, outside):
        place.mkdir(parents=True, exist_ok=True)
    whole = asset()
    (outside / "secret.bin").write_bytes(whole.binary)
    (outside / "secret.glb").write_bytes(whole.glb())
    (outside / "secret.png").write_bytes(png(np.zeros((4, 4, 3), np.uint8)))
    (outside / "secret.mtl").write_text("newmtl paint\nKd 1 0 0\n")
    (folder / "link.bin").symlink_to(outside / "secret.bin")
    os.mkfifo(folder / "fifo.bin")
    written = []
    for name, (data, _) in _kinds(folder, outside).items():
        for copy in range(copies):
            path = folder / f"{copy}-{name}"
            path.write_bytes(data)
            written.append(path)
    os.mkfifo(folder / "a-fifo.glb")
    (folder / "a-folder.glb").mkdir()
    (folder / "a-link.glb").symlink_to(outside / "secret.glb")
    (folder / "a-loop.glb").symlink_to(folder / "a-loop.glb")
    (folder / "a-stranger.fbx").write_bytes(b"Kaydara FBX Binary")
    return written + [folder / name for name in _SPECIAL]


def expected(path: Path) -> re.Pattern[str]:
    """What the reason for refusing a file of `write_hostile` must say."""
    if path.name in _SPECIAL:
        return re.compile(_SPECIAL[path.name])
    return re.compile(_kinds(path.parent, _secrets(path.parent))[path.name.partition("-")[2]][1])


def read(request: Json) -> tuple[dict[str, NDArray[Any]], Json]:
    """For a `Sandbox`: read the mesh at request["path"] within `LIMITS`."""
    mesh = read_mesh(Path(request["path"]), up="y", root=Path(request["root"]), limits=LIMITS)
    return {"vertices": mesh.vertices, "faces": mesh.faces, "colour": mesh.colour}, {"materials": len(mesh.materials)}
