"""A catalogue: shapes with their captions, known and checked before a byte of a mesh is read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from mrdist.data.faults import MachineFault
from mrdist.data.manifests import find, read
from mrdist.errors import DataError, RecipeError
from mrdist.files import settle, settle_all
from mrdist.shapes import Axis, Shape

SPLITS = ("train", "val", "test", "unseen")
"""`unseen` holds classes that never occur in `train`."""


@dataclass(frozen=True)
class Catalog:
    """Shapes whose meshes lie inside `root`; `missing` names those that a manifest lists but nobody has."""

    root: Path
    shapes: tuple[Shape, ...]
    missing: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: str | Path, *, up: str = "y", val: float = 0.1, test: float = 0.1, partial: bool = False) -> Catalog:
        """Read a manifest (.jsonl, .parquet), a captions file (.txt, .csv), or a folder that holds one of them, or meshes alone.

        A manifest has one row per shape: `mesh` (a path from the manifest's folder) and any of `id` (default: the path), `captions` or
        `caption`, `category`, `up`, `split`, `source`, `licence`, `sha256`. A folder may hold `captions.txt` (lines `file<TAB>caption`) or
        `captions.csv` (the manifest's columns) instead; with no text file at all, a mesh's name is its caption and its folder the category.

        Args:
            up: the axis of shapes that do not say theirs.
            val, test: shares of shapes that do not say their split; chosen by a hash of the id, so that more shapes move none.
            partial: leave out shapes whose mesh is missing, and name them in `missing`, instead of raising.

        Raises:
            DataError: nothing to read, a column or value that makes no sense, ids that repeat, a path that leaves the folder, or a
                missing mesh.
        """
        manifest = find(Path(path))
        root = (manifest if manifest.is_dir() else manifest.parent).resolve()
        shapes = tuple(_shape(row, where, root, up, val, test) for where, row in read(manifest))
        if not shapes:
            raise DataError(what=manifest, got="no shapes", wanted="at least one", try_="put .glb, .obj, .ply, .off or .stl files there")
        _alone(manifest, shapes)
        missing = tuple(s.id for s in shapes if not s.mesh.is_file())
        if missing and (not partial or len(missing) == len(shapes)):
            names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise DataError(
                what=manifest,
                got=f"{len(missing)} of {len(shapes)} meshes missing: {names}",
                wanted="every mesh beside the manifest",
                try_="partial=true goes on without them",
            )
        gone = set(missing)
        return cls(root, tuple(s for s in shapes if s.id not in gone), missing)

    @classmethod
    def write(cls, path: str | Path, shapes: Iterable[Shape]) -> Catalog:
        """Write a manifest beside its meshes, whole or not at all: Parquet where `path` ends so, JSON lines otherwise.

        Raises:
            DataError: ids repeat, or a mesh lies outside the manifest's folder.
        """
        path, shapes = Path(path), tuple(shapes)
        root = path.parent.resolve()
        _alone(path, shapes)
        rows = [_row(shape, root, path) for shape in shapes]
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        if path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(rows), beside)
        else:
            beside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        os.replace(beside, path)
        return cls(root, shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __iter__(self) -> Iterator[Shape]:
        return iter(self.shapes)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any id, caption, category, axis, split or mesh; not with the folder or the order.

        A mesh counts by its sha256 where the manifest gives one, and by its size otherwise: times differ between copies, and hashing
        terabytes on every start would cost more than it saves.
        """
        lines = sorted(
            json.dumps([s.id, s.captions, s.category, s.up, s.split, s.sha256 or s.mesh.stat().st_size]) for s in self.shapes
        )  # fmt: skip
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def split(self, name: str) -> Catalog:
        """The shapes of one split, perhaps none.

        Raises:
            DataError: there is no such split.
        """
        if name not in SPLITS:
            raise DataError(what="split", got=repr(name), wanted=f"one of {', '.join(SPLITS)}", try_="split='train'")
        return Catalog(self.root, tuple(s for s in self.shapes if s.split == name))

    def categories(self, split: str | None = None) -> tuple[str, ...]:
        """The names of the classes, sorted; of one split, or of all."""
        shapes = self.shapes if split is None else self.split(split).shapes
        return tuple(sorted({s.category for s in shapes if s.category}))


def made_once(folder: Path, make: Callable[[Path], Iterable[Shape]]) -> Catalog:
    """The catalogue in `folder`; where there is none, `make` writes meshes into a folder beside it, which is renamed when it is whole.

    Raises:
        DataError: this machine cannot read what it is made of, or not write it; nothing is left behind.
    """
    if not (folder / "catalog.jsonl").is_file():
        beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
        beside.mkdir(parents=True)
        try:
            Catalog.write(beside / "catalog.jsonl", make(beside))
            settle_all(beside)
            try:
                beside.rename(folder)
                settle(folder.parent)
            except OSError:
                if not (folder / "catalog.jsonl").is_file():  # else somebody was faster, and made the same
                    raise
        except OSError as wrong:
            raise MachineFault(str(wrong)).told(folder) from None
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return Catalog.open(folder)


def check_shares(val: float, test: float) -> None:
    """Refuse shares of held-out shapes that leave none for training.

    Raises:
        RecipeError: a negative share, or shares that sum to one or more.
    """
    if not (val >= 0 and test >= 0 and val + test < 1):
        got = f"val {val:g} and test {test:g}"
        raise RecipeError(
            what="data", got=got, wanted="shares of 0 or more that leave some for training", try_="data.val=0.1 data.test=0.1"
        )


def hashed_split(name: str, val: float, test: float) -> str:
    """A split that depends on a name only: the same shape is held out on every machine and for ever."""
    place = int.from_bytes(hashlib.sha256(f"split/{name}".encode()).digest()[:8], "big") / 2**64
    return "test" if place < test else "val" if place < test + val else "train"


def _shape(row: Mapping[str, Any], where: str, root: Path, up: str, val: float, test: float) -> Shape:
    said = row["mesh"]
    mesh = Path(os.path.abspath(root / said))
    if Path(said).is_absolute() or not mesh.is_relative_to(root) or not mesh.resolve().is_relative_to(root):
        raise DataError(
            what=where, got=f"mesh {said!r}, which leaves the folder", wanted=f"a path inside {root}", try_="copy the mesh into the folder"
        )
    name = _text(row.get("id") or said)
    axis, split = row.get("up") or up, row.get("split") or hashed_split(name, val, test)
    if axis not in ("x", "y", "z"):
        raise DataError(what=where, got=f"up {axis!r}", wanted="'x', 'y' or 'z'", try_="up: y, as in glTF")
    if split not in SPLITS:
        raise DataError(what=where, got=f"split {split!r}", wanted=f"one of {', '.join(SPLITS)}", try_="leave it out for a split by hash")
    rest = {key: _text(row.get(key) or "") for key in ("category", "source", "licence", "sha256")}
    captions = tuple(_text(caption) for caption in row.get("captions") or ())
    return Shape(name, mesh, captions, up=cast(Axis, axis), split=split, **rest)


def _text(said: str) -> str:
    """`said` as UTF-8 can write it: file names of other encodings, and halves of characters, are spelt out."""
    return said.encode("utf-8", "backslashreplace").decode("utf-8")


def _alone(path: Path, shapes: tuple[Shape, ...]) -> None:
    twice = [name for name, count in Counter(s.id for s in shapes).items() if count > 1]
    if twice:
        raise DataError(
            what=path, got=f"{len(twice)} ids more than once: {', '.join(twice[:5])}", wanted="unique ids", try_="make every id unique"
        )


def _row(shape: Shape, root: Path, path: Path) -> dict[str, Any]:
    mesh = Path(os.path.abspath(shape.mesh))
    if not mesh.is_relative_to(root):
        raise DataError(
            what=f"{path}: {shape.id}",
            got=f"mesh {shape.mesh}",
            wanted=f"a mesh inside {root}",
            try_="write the manifest beside its meshes",
        )
    return {
        "id": shape.id,
        "mesh": mesh.relative_to(root).as_posix(),
        "captions": list(shape.captions),
        "category": shape.category,
        "up": shape.up,
        "split": shape.split,
        "source": shape.source,
        "licence": shape.licence,
        "sha256": shape.sha256,
    }
