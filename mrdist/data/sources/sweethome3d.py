"""Real furniture: the models of Sweet Home 3D, from its libraries or from a pack of simplified meshes."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrdist.data.catalog import Catalog, check_shares, made_once
from mrdist.data.colour import LIGHT_OF_BYTE
from mrdist.data.sources.furniture_names import captions, label
from mrdist.data.sources.sh3f import Library
from mrdist.data.writing import Surface, glb
from mrdist.errors import DataError
from mrdist.kinds import Part
from mrdist.progress import Progress, silent
from mrdist.recipe import fingerprint
from mrdist.shapes import Shape, digest

VERSION = 1
"""Counts up when the same libraries would give other meshes, names or splits."""

PLACES = ("/usr/share/sweethome3d/furniture", "../shared/data/sweethome3d")
"""Where the models are looked for when no path is given: the Debian package, and a pack beside the checkout."""

_log = logging.getLogger(__name__)
_Found = tuple[Shape, str]  # a shape, and what its geometry is called: recoloured twins share a name


@dataclass(frozen=True)
class FurnitureConfig(Part):
    """`data: {kind: furniture}`: every model with its name; classes with enough examples are held out in part."""

    kind: str = "furniture"
    path: str = ""  # a .sh3f file, a folder of them, or a folder with meshes.npz and meta.json; nothing = look in PLACES
    smallest: int = 8  # classes with fewer examples are trained on, but never held out
    val: float = 0.1  # share of a class that is held out for watching
    test: float = 0.2  # share of a class that is held out for the figures at the end
    limit_mb: int = 512  # largest model, unpacked with its textures

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that have shapes, if there are classes with enough examples."""
        return ("train", *(name for name in ("val", "test") if getattr(self, name)))

    def check(self, recipe: object) -> None:
        """Refuse shares that leave nothing to train on.

        Raises:
            RecipeError: as `check_shares`.
        """
        check_shares(self.val, self.test)

    def look(self) -> None:
        """Refuse a path without models.

        Raises:
            DataError: as `find`.
        """
        find(self.path)

    def open(self, store: Path, progress: Progress = silent) -> Catalog:
        """The catalogue, unpacked into `store` the first time.

        A class is the head noun of a name. Twins, which differ in colour only, stay on one side of a split. Models that nobody here can
        read are named in `left_out.jsonl` beside the manifest.

        Raises:
            DataError: no models found, or a damaged library.
        """
        sources = find(self.path)
        name = fingerprint(VERSION, self.smallest, self.val, self.test, self.limit_mb, [_digest(p) for p in sources])

        def make(folder: Path) -> list[Shape]:
            if sources[0].suffix == ".sh3f":
                found, left_out = _unpacked(sources, folder, self.limit_mb << 20, progress)
            else:
                found, left_out = list(_from_pack(sources[0].parent, folder, progress)), []
            (folder / "left_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in left_out), encoding="utf-8")
            if left_out:
                _log.warning("%d models left out, see left_out.jsonl: %s", len(left_out), ", ".join(str(r["id"]) for r in left_out[:5]))
            return divided(found, self)

        return made_once(store / f"furniture-{name}", make)


def find(path: str) -> list[Path]:
    """The libraries, or the two files of a pack, that `path` means.

    Raises:
        DataError: nothing there.
    """
    for place in [Path(path).expanduser()] if path else [Path(p) for p in PLACES]:
        libraries = [place] if place.suffix == ".sh3f" and place.is_file() else sorted(place.rglob("*.sh3f"))
        pack = [place / "meshes.npz", place / "meta.json"]
        if libraries:
            return libraries
        if all(p.is_file() for p in pack):
            return pack
    raise DataError(
        what="furniture", got=f"no models in {path or ' or '.join(PLACES)}", wanted=".sh3f libraries, or meshes.npz with meta.json",
        try_="apt-get install sweethome3d-furniture, or data.path=FOLDER",
    )  # fmt: skip


def divided(found: list[_Found], config: FurnitureConfig) -> list[Shape]:
    """Shapes with their splits: shares of every class with enough examples, whole families of twins, ordered by a hash."""
    families: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for n, (shape, geometry) in enumerate(found):
        families[shape.category][geometry].append(n)
    splits = ["train"] * len(found)
    for category, members in families.items():
        count = sum(map(len, members.values()))
        if not category or count < config.smallest:
            continue
        wanted = {"test": round(config.test * count), "val": round(config.val * count)}
        for geometry in sorted(members, key=lambda g: hashlib.sha256(g.encode()).digest()):
            twins = members[geometry]
            room = [split for split, free in wanted.items() if len(twins) <= free]
            if room:
                wanted[room[0]] -= len(twins)
                for n in twins:
                    splits[n] = room[0]
    return [replace(shape, split=split) for (shape, _), split in zip(found, splits, strict=True)]


def _unpacked(libraries: list[Path], folder: Path, limit: int, progress: Progress) -> tuple[list[_Found], list[dict[str, Any]]]:
    found: list[_Found] = []
    left_out: list[dict[str, Any]] = []
    known: set[str] = set()
    opened = [Library(path) for path in libraries]
    total = sum(len(library.items) for library in opened)
    for library in opened:
        for item in library.items:
            progress("unpack furniture", len(found) + len(left_out), total)
            if item.id in known:
                left_out.append({"id": item.id, "reason": "its id was there before"})
                continue
            known.add(item.id)
            try:
                model = library.unpack(item, folder / _plain(item.library), limit=limit)
            except DataError as wrong:
                left_out.append({"id": item.id, "reason": f"got {wrong.got}, wanted {wrong.wanted}"})
                continue
            data = model.read_bytes()
            found.append((_shape(vars(item), model, data), _geometry(data)))
        library.close()
    progress("unpack furniture", total, total)
    return found, left_out


def _from_pack(pack: Path, folder: Path, progress: Progress) -> Iterator[_Found]:
    """Meshes of a ragged pack (unit-sphere vertices as uint16, faces, face colours), written as .glb files."""
    try:
        items: list[dict[str, Any]] = json.loads((pack / "meta.json").read_text(encoding="utf-8"))
        with np.load(pack / "meshes.npz", allow_pickle=False) as arrays:
            vertices, faces, colours, starts, firsts = (arrays[k] for k in ("verts", "faces", "face_colors", "vert_offset", "face_offset"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as wrong:
        raise DataError(
            what=pack, got=str(wrong), wanted="meshes.npz and meta.json that belong together", try_="copy the pack again"
        ) from None
    if (
        not len(items) + 1 == len(starts) == len(firsts)
        or starts[-1] != len(vertices)
        or firsts[-1] != len(faces)
        or len(colours) != len(faces)
    ):
        raise DataError(
            what=pack, got=f"{len(items)} names, {len(starts) - 1} meshes", wanted="one name per mesh", try_="copy the pack again"
        )
    for n, item in enumerate(items):
        progress("unpack furniture", n, len(items))
        own, rows = vertices[starts[n] : starts[n + 1]], slice(firsts[n], firsts[n + 1])
        if not len(faces[rows]) or int(faces[rows].max()) >= len(own):
            raise DataError(
                what=f"{pack}: mesh {n}", got="faces without vertices", wanted="faces of its own vertices", try_="copy the pack again"
            )
        data = painted(own / np.float32(65535 / 2) - 1, faces[rows].astype(np.int64), colours[rows])
        path = folder / f"{n:05d}-{_plain(item['name'])[:40]}.glb"
        path.write_bytes(data)
        yield _shape({"library": item.get("lib", ""), **item}, path, data), digest(own.tobytes())
    progress("unpack furniture", len(items), len(items))


def painted(vertices: NDArray[Any], faces: NDArray[np.int64], colours: NDArray[np.uint8]) -> bytes:
    """A .glb file of `vertices [V, 3]`, `faces [F, 3]` and one sRGB byte colour per face `[F, 3]`.

    A vertex where colours meet stands once per colour.
    """
    shade = colours.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    corners, rows = np.unique(faces.reshape(-1) << 24 | np.repeat(shade, 3), return_inverse=True)
    rgb = np.stack([corners >> 16, corners >> 8, corners], axis=1) & 255
    return glb([Surface(vertices[corners >> 24], rows.reshape(-1, 3), colours=LIGHT_OF_BYTE[rgb])])


def _shape(item: dict[str, Any], mesh: Path, data: bytes) -> Shape:
    name, tags, room = item["name"], item["tags"], item["category"]
    source = f"Sweet Home 3D, {item['library']}" + (f", by {item['creator']}" if item["creator"] else "")
    return Shape(
        item["id"],
        mesh,
        captions(name, tags, room),
        label(name),
        source=source,
        licence=item["licence"],
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _geometry(data: bytes) -> str:
    """The name of where a model's vertices are, whatever its colours."""
    lines = re.findall(rb"^v .*$", data, re.MULTILINE)
    return digest(b"\n".join(lines) if lines else data)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(name: str) -> str:
    """A name as a file name."""
    return re.sub(r"\W+", "-", name).strip("-").lower() or "unnamed"
