"""Furniture libraries of Sweet Home 3D: zip files (.sh3f) of models with a table of names, tags and licences."""

from __future__ import annotations

import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from mrdist.data.faults import must_be_its_own
from mrdist.errors import DataError
from mrdist.shapes import digest

READABLE = (".obj", ".glb", ".gltf", ".ply", ".off", ".stl")
_BESIDE = (".mtl", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tga", ".bin", ".txt")  # what a model needs, and its licence
_TABLE = "PluginFurnitureCatalog.properties"
_LICENCES = (
    ("attribution 3.0 united states", "CC-BY-3.0-US"),
    ("attribution 3.0", "CC-BY-3.0"),
    ("attribution 4.0", "CC-BY-4.0"),
    ("public domain", "CC0"),
    ("cc0", "CC0"),
    ("free art", "FAL-1.3"),
    ("art libre", "FAL-1.3"),
)


@dataclass(frozen=True)
class Item:
    """One line of a library's table; `model` is a path inside the zip, "inner.zip!/model.obj" where that holds another zip."""

    id: str
    name: str
    model: str
    tags: tuple[str, ...] = ()
    category: str = ""
    creator: str = ""
    licence: str = ""
    library: str = ""
    whole_folder: bool = False  # the model needs the files beside it
    rotation: tuple[float, ...] = ()  # 9 numbers, rows of a matrix that turns the model upright; none = it stands


class Library:
    """An open .sh3f file.

    Raises:
        DataError: not a zip file, or one without the table of models.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
            table = properties(self._zip.read(_TABLE).decode("latin-1"))
        except (zipfile.BadZipFile, KeyError, OSError) as wrong:
            raise DataError(what=path, got=str(wrong), wanted=f"a zip file with {_TABLE}", try_="download the library again") from None
        self.items = tuple(_items(table, path.stem))

    def close(self) -> None:
        """Let go of the file."""
        self._zip.close()

    def unpack(self, item: Item, folder: Path, *, limit: int) -> Path:
        """Write a model, and what it needs, below `folder`; the model's path.

        Nothing is written outside `folder`, whatever the names in the zip say, and no more than `limit` bytes.

        Raises:
            DataError: a format nobody here reads, a model that is not there, too large, damaged, or a name that leaves the folder.
            OSError: the library cannot be read here, or nothing be written; no fault of the model.
        """
        with self._inside(item, limit) as (archive, name):
            if PurePosixPath(name).suffix.lower() not in READABLE:
                raise DataError(
                    what=item.id,
                    got=f"a model ending in {PurePosixPath(name).suffix or 'nothing'}",
                    wanted=", ".join(READABLE),
                    try_="convert it to .glb",
                )
            wanted = [archive.getinfo(name)] if name in archive.namelist() else []
            if not wanted:
                raise DataError(what=item.id, got=f"no file {name}", wanted="the model in its library", try_="download the library again")
            if item.whole_folder or name != item.model:
                beside = name.rpartition("/")[0] + "/" if "/" in name else ""
                around = (info for info in archive.infolist() if info.filename.startswith(beside) and info.filename != name)
                wanted += [info for info in around if info.filename.lower().endswith(_BESIDE)]
            size = sum(info.file_size for info in wanted)
            if size > limit:
                raise DataError(what=item.id, got=f"{size >> 20} MB unpacked", wanted=f"at most {limit >> 20} MB", try_="raise limit_mb")
            for info in wanted:
                self._write(archive, info, folder, item)
        model = folder / name
        if item.rotation and model.suffix.lower() == ".obj":
            lying = model  # it stays: another item may want it with another rotation
            model = lying.with_name(f"{lying.stem}-turned-{digest(repr(item.rotation).encode())[:8]}{lying.suffix}")
            model.write_bytes(turned(lying.read_bytes(), np.array(item.rotation).reshape(3, 3)))
        return model

    @contextmanager
    def _inside(self, item: Item, limit: int) -> Iterator[tuple[zipfile.ZipFile, str]]:
        """The archive that holds an item's model, and the model's name in it."""
        outer, _, inner = item.model.partition("!/")
        if not inner and not outer.lower().endswith(".zip"):
            yield self._zip, outer
            return
        try:
            info = self._zip.getinfo(outer)
            if info.file_size > limit:
                raise DataError(what=item.id, got=f"{info.file_size >> 20} MB", wanted=f"at most {limit >> 20} MB", try_="raise limit_mb")
            with zipfile.ZipFile(io.BytesIO(self._zip.read(info))) as archive:
                models = [n for n in archive.namelist() if PurePosixPath(n).suffix.lower() in READABLE]
                yield archive, inner or (models[0] if models else outer)
        except (zipfile.BadZipFile, KeyError) as wrong:
            raise DataError(what=item.id, got=str(wrong), wanted=f"a zip file {outer}", try_="download the library again") from None

    def _write(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path, item: Item) -> None:
        path = PurePosixPath(info.filename)
        target = folder / path
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename or not target.resolve().is_relative_to(folder.resolve()):
            raise DataError(
                what=item.id, got=f"a file called {info.filename!r}", wanted="a name inside the library", try_="do not trust this library"
            )
        if target.exists():
            return  # two models share a folder
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(info))  # zipfile gives at most the size it declared
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as wrong:
            with suppress(OSError):
                target.unlink(missing_ok=True)
            must_be_its_own(wrong)
            raise DataError(what=item.id, got=str(wrong), wanted=f"{info.filename} whole", try_="download the library again") from None


def properties(text: str) -> dict[str, str]:
    """Keys and values of a Java properties file (ISO 8859-1 with \\uXXXX escapes, lines that continue)."""
    found = {}
    for line in re.sub(r"(?<!\\)((?:\\\\)*)\\\r?\n[ \t]*", r"\1", text).splitlines():
        parts = re.fullmatch(r"\s*((?:[^\s#!=:\\]|\\.)(?:[^\s=:\\]|\\.)*)\s*[=:\s]?\s*(.*)", line)
        if parts:
            found[_unescaped(parts[1])] = _unescaped(parts[2])
    return found


def turned(obj: bytes, matrix: NDArray[np.float64]) -> bytes:
    """A Wavefront file whose vertices and normals are multiplied by `matrix [3, 3]`; everything else stays."""
    lines = []
    for line in obj.split(b"\n"):
        words = line.split()
        if len(words) >= 4 and words[0] in (b"v", b"vn"):
            xyz = matrix @ np.array([float(w) for w in words[1:4]])
            line = b" ".join([words[0], *(f"{value:.6g}".encode() for value in xyz), *words[4:]])
        lines.append(line)
    return b"\n".join(lines)


def _items(table: dict[str, str], library: str) -> Iterator[Item]:
    rows: dict[int, dict[str, str]] = defaultdict(dict)
    for key, value in table.items():
        name, mark, number = key.partition("#")
        if mark and number.isdigit():
            rows[int(number)][name] = value
    header = _licence(table.get("license", ""))
    shared = {part.strip().lower() for part in (table.get("name", ""), table.get("provider", "")) if part}
    for place, row in sorted(rows.items()):
        if "model" in row and "name" in row:
            creator = row.get("creator", "")
            tags = [tag.strip() for tag in row.get("tags", "").split(",")]
            yield Item(
                id=row.get("id") or f"{library}#{place}",
                name=row["name"].strip(),
                model=row["model"].lstrip("/"),
                tags=tuple(tag for tag in tags if tag and tag.lower() not in {*shared, creator.lower()}),
                category=row.get("category", ""),
                creator=creator,
                licence=_licence(row["license"]) if row.get("license") else header,
                library=library,
                whole_folder=row.get("multiPartModel", "").lower() == "true",
                rotation=_rotation(row.get("modelRotation", "")),
            )


def _licence(text: str) -> str:
    """A short name where there is one, the library's own words otherwise."""
    known = [short for words, short in _LICENCES if words in text.lower()]
    return known[0] if known else text.strip()


def _rotation(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(word) for word in text.split())
    except ValueError:
        return ()
    return numbers if len(numbers) == 9 and np.isfinite(numbers).all() else ()


def _unescaped(text: str) -> str:
    known = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", lambda m: chr(int(m[1], 16)) if m[1] else known.get(m[2], m[2]), text)
