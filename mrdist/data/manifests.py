"""Rows of a catalogue from the files people have: JSON lines, Parquet, a captions file, or nothing but meshes."""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mrdist.errors import DataError

MESHES = (".glb", ".gltf", ".obj", ".ply", ".off", ".stl")
"""Endings of files that count as meshes."""

NAMES = ("catalog.jsonl", "catalog.parquet", "captions.txt", "captions.csv")
"""What a folder may hold beside its meshes: one of these, or none."""

_TEXTS = ("id", "mesh", "category", "up", "split", "source", "licence", "sha256")
_ALIASES = {"caption": "captions", "license": "licence", "file": "mesh", "path": "mesh"}

Row = dict[str, Any]


def find(path: Path) -> Path:
    """The manifest that `path` means; a folder without one stands for itself.

    Raises:
        DataError: nothing there, or a folder with two manifests.
    """
    if path.is_file() and path.suffix in (".jsonl", ".parquet", ".txt", ".csv"):
        return path
    if not path.is_dir():
        got = "another kind of file" if path.exists() else "no such file or folder"
        raise DataError(
            what=path, got=got, wanted="a folder of meshes, or a .jsonl, .parquet, .txt or .csv beside them", try_="check the path"
        )
    there = [path / name for name in NAMES if (path / name).is_file()]
    if len(there) > 1:
        raise DataError(what=path, got=" and ".join(p.name for p in there), wanted="one of them", try_=f"name the file: {there[0]}")
    return there[0] if there else path


def read(manifest: Path) -> Iterator[tuple[str, Row]]:
    """Rows with what to call them in an error; `mesh` is a str in all of them, `captions` a list of str where there are any.

    Raises:
        DataError: a row that cannot be read, without a mesh, or with values of the wrong type.
    """
    try:
        yield from _rows(manifest)
    except (UnicodeDecodeError, csv.Error) as wrong:
        raise DataError(what=manifest, got=str(wrong), wanted="text in UTF-8", try_="save it as UTF-8") from None


def _rows(manifest: Path) -> Iterator[tuple[str, Row]]:
    if manifest.is_dir():
        for mesh in _meshes(manifest):
            yield mesh, {"mesh": mesh, "captions": [_spoken(Path(mesh).stem)], "category": _spoken(Path(mesh).parent.name)}
    elif manifest.suffix == ".jsonl":
        yield from _checked(manifest, _json_lines(manifest))
    elif manifest.suffix == ".parquet":
        yield from _checked(manifest, enumerate(_parquet(manifest), 1))
    else:
        lines = _tabbed(manifest) if manifest.suffix == ".txt" else _commas(manifest)
        yield from _with_the_rest(manifest.parent, _checked(manifest, lines))


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as wrong:
                    raise DataError(
                        what=f"{path}:{number}", got=str(wrong), wanted="one JSON object per line", try_="mend that line"
                    ) from None


def _parquet(path: Path) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[Any] = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as wrong:
        raise DataError(what=path, got=str(wrong).splitlines()[0], wanted="a Parquet file", try_="write it again") from None
    return rows


def _tabbed(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip():
            mesh, tab, caption = line.partition("\t")
            if not tab:
                raise DataError(what=f"{path}:{number}", got="no tab", wanted="file<TAB>caption", try_="put a tab after the file's name")
            yield number, {"mesh": mesh.strip(), "captions": [caption.strip()]}


def _commas(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as text:
        for row in csv.DictReader(text):
            yield 0, {key: value for key, value in row.items() if key is not None and value}


def _checked(path: Path, rows: Iterator[tuple[int, Any]]) -> Iterator[tuple[str, Row]]:
    for number, row in rows:
        where = f"{path}:{number}" if number else str(path)
        if not isinstance(row, Mapping):
            raise DataError(what=where, got=type(row).__name__, wanted="an object", try_='{"mesh": "chair.glb", "captions": ["a chair"]}')
        known: Row = {}
        for key, value in row.items():
            name = _ALIASES.get(key, key)
            if name in _TEXTS or name == "captions":
                known[name] = _value(where, name, value)
            elif near := difflib.get_close_matches(str(key), [*_TEXTS, "captions", "caption"], n=1, cutoff=0.8):
                raise DataError(
                    what=where, got=f"{key!r}", wanted=f"{near[0]!r}, or a name that is not so near", try_=f"rename it to {near[0]!r}"
                )
        if not known.get("mesh"):
            raise DataError(what=where, got=f"columns {', '.join(map(str, row))}", wanted="a mesh", try_='"mesh": "chair.glb"')
        yield where, known


def _value(where: str, name: str, value: Any) -> Any:
    if name == "captions":
        value = [value] if isinstance(value, str) else value or []
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            return [v.strip() for v in value if v.strip()]
    elif value is None or isinstance(value, str):
        return value
    raise DataError(
        what=where,
        got=f"{name} of type {type(value).__name__}",
        wanted="text" if name != "captions" else "text, or a list of texts",
        try_="quote it",
    )


def _with_the_rest(folder: Path, rows: Iterator[tuple[str, Row]]) -> Iterator[tuple[str, Row]]:
    """Rows of one mesh made one row; then the meshes nobody spoke of, without captions."""
    held: dict[str, tuple[str, Row]] = {}
    for where, row in rows:
        first = held.setdefault(row["mesh"], (where, {"captions": []}))[1]
        first.update({key: value for key, value in row.items() if key != "captions"})
        first["captions"] += row.get("captions", [])
    yield from held.values()
    for mesh in _meshes(folder):
        if mesh not in held:
            yield mesh, {"mesh": mesh, "category": _spoken(Path(mesh).parent.name)}


def _meshes(folder: Path) -> list[str]:
    """Paths of mesh files below a folder, sorted; nothing hidden, and no folder that is a link."""
    below = (p.relative_to(folder) for p in folder.rglob("*") if p.suffix.lower() in MESHES and p.is_file())
    return sorted(p.as_posix() for p in below if not any(part.startswith(".") for part in p.parts))


def _spoken(name: str) -> str:
    """A file's name as people would say it: "office_chair-03" is "office chair", "redCube" is "red cube"."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.sub(r"[\W_]*\d+$|[\W_]+", " ", words).strip().lower()
