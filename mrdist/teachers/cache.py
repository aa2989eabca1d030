"""Embeddings on disk: what a teacher has said once it need not say again.

A cache is a folder per teacher fingerprint with parts that are only ever added, each a safetensors file of `digests [n, 16]` (uint8)
and `rows [n, E]` (float16). Any number of processes may read and add at once: a part is written beside and then renamed, and is
complete when it has its name. At worst two processes compute the same row at the same time; either copy serves.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mrdist.errors import TeacherError
from mrdist.files import put
from mrdist.shapes import digest
from mrdist.teachers.base import Rows, Teacher

_log = logging.getLogger(__name__)

Half = NDArray[np.float16]
Key = bytes  # 16 of them
Input = TypeVar("Input", bytes, str)

PART_ROWS = 4096
"""A part is written when so many rows wait for it,"""
PART_SECONDS = 30.0
"""or when the first of them has waited so long: what a killed process loses."""


def cached_images(teacher: Teacher, cache: Cache, encoded: Sequence[bytes]) -> Rows:
    """`teacher.images(encoded)`, computed only where the cache has no row; float16 precision, unit rows `[N, E]`.

    Raises:
        TeacherError: the cache belongs to another teacher, or bytes are no picture.
    """
    return _cached(teacher, cache, encoded, [bytes.fromhex(digest(b"image\0" + picture)) for picture in encoded], teacher.images)


def cached_texts(teacher: Teacher, cache: Cache, captions: Sequence[str], *, ask: Callable[[Sequence[str]], Rows] | None = None) -> Rows:
    """`teacher.texts(captions)`, computed only where the cache has no row; float16 precision, unit rows `[N, E]`.

    Args:
        ask: what computes them; None: `teacher.texts`.

    Raises:
        TeacherError: the cache belongs to another teacher.
    """
    keys = [bytes.fromhex(digest(b"text\0" + caption.encode())) for caption in captions]
    return _cached(teacher, cache, captions, keys, ask or teacher.texts)


def _cached(teacher: Teacher, cache: Cache, inputs: Sequence[Input], keys: Sequence[Key], embed: Callable[[Sequence[Input]], Rows]) -> Rows:
    if teacher.fingerprint != cache.fingerprint:
        raise TeacherError(
            what="embedding cache",
            got=f"teacher {teacher.fingerprint}",
            wanted=f"teacher {cache.fingerprint}",
            try_="open one Cache per teacher: Cache(folder, teacher.fingerprint)",
        )
    found = dict(zip(keys, cache.find(keys), strict=True))
    missing = {key: one for key, one in zip(keys, inputs, strict=True) if found[key] is None}
    if missing:
        rows = embed(list(missing.values())).astype(np.float16)
        cache.add(list(missing), rows)
        found.update(zip(missing, rows, strict=True))
    # Rounded to float16 on either path: a row is the same whether it was just computed or read.
    held = np.array([found[key] for key in keys], dtype=np.float32).reshape(len(keys), teacher.width)
    unit: Rows = held / np.linalg.norm(held, axis=1, keepdims=True)
    return unit


class Cache:
    """The embeddings of one teacher. Belongs to one thread; other processes may use the same folder at the same time.

    New rows are written in parts: the last one by `flush`, at the end of a `with` block, or when the program ends.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """The rows of teacher `fingerprint` below `folder`, which need not exist.

        Raises:
            TeacherError: the fingerprint cannot name a folder, or a part cannot be read.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]+", fingerprint):
            what, wanted = "teacher fingerprint", "letters, digits, - and _"
            raise TeacherError(what=what, got=repr(fingerprint), wanted=wanted, try_="use mrdist.recipe.fingerprint")
        self.fingerprint = fingerprint
        self.folder = folder / fingerprint
        self._parts: list[_Part] = []
        self._names: set[str] = set()
        self._indices: list[_Index] = []  # each at least twice as long as the next: few to search, cheap to add to
        self._waiting = _Waiting(self.folder, fingerprint)
        weakref.finalize(self, self._waiting.write)
        self._look()

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None) -> None:
        self.flush()

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self._parts) + len(self._waiting.rows)

    def find(self, keys: Sequence[Key]) -> list[Half | None]:
        """The row `[E]` of every key (16 bytes), None where there is none."""
        found = self._search(keys)
        missing = any(row is None for row in found)
        return self._search(keys) if missing and self._look() else found

    def add(self, keys: Sequence[Key], rows: Half) -> None:
        """Keep `rows [N, E]` under N keys of 16 bytes."""
        if not self._waiting.rows:
            self._waiting.since = time.monotonic()
        self._waiting.rows.update(zip(keys, rows, strict=True))
        if len(self._waiting.rows) >= PART_ROWS or time.monotonic() - self._waiting.since > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        self._waiting.write()
        self._look()

    def _search(self, keys: Sequence[Key]) -> list[Half | None]:
        found = [self._waiting.rows.get(key) for key in keys]
        heads = _heads(np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 16))
        for index in self._indices:
            at = np.minimum(np.searchsorted(index.heads, heads), len(index.heads) - 1)
            for i in np.flatnonzero(index.heads[at] == heads).tolist():
                part, row = self._parts[index.part[at[i]]], index.row[at[i]]
                if found[i] is None and part.digests[row].tobytes() == keys[i]:
                    found[i] = part.rows[row]
        return found

    def _look(self) -> bool:
        """Learn of parts that appeared since the last look; whether there were any."""
        names = {path.name for path in self.folder.glob("[!.]*.safetensors")} if self.folder.is_dir() else set()
        fresh = sorted(names - self._names)
        if not fresh:
            return False
        first, parts = len(self._parts), [part for name in fresh if (part := _part(self.folder / name, self.fingerprint)) is not None]
        self._names |= names
        if not parts:
            return False
        self._parts += parts
        indices = [_Index.of(part.digests, first + i) for i, part in enumerate(parts)]
        while self._indices and len(self._indices[-1].heads) < 2 * sum(len(index.heads) for index in indices):
            indices.append(self._indices.pop())
        self._indices.append(_Index.merged(indices))
        return True


class _Waiting:
    """Rows that are not on disk yet; apart from the Cache, so that they can be written when it is gone."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.rows: dict[Key, Half] = {}
        self.since = 0.0  # monotonic seconds

    def write(self) -> None:
        from safetensors.numpy import save

        if not self.rows:
            return
        digests = np.frombuffer(b"".join(self.rows), dtype=np.uint8).reshape(-1, 16)
        content = save({"digests": digests, "rows": np.stack(list(self.rows.values()))}, {"fingerprint": self.fingerprint})
        # Named after its keys: two processes that compute the same rows write the same part.
        name = f"{digest(digests.tobytes())}.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)
        put(self.folder / name, content)
        self.rows.clear()


class _Part(NamedTuple):
    digests: NDArray[np.uint8]  # [n, 16]
    rows: Half  # [n, E]; both are maps of the file: read when asked for


class _Index(NamedTuple):
    """Where rows are. The first eight bytes of a digest find a row, all sixteen decide."""

    heads: NDArray[np.uint64]  # [n], ascending
    part: NDArray[np.int32]  # [n]
    row: NDArray[np.int32]  # [n]

    @classmethod
    def of(cls, digests: NDArray[np.uint8], part: int) -> _Index:
        return cls(_heads(digests), np.full(len(digests), part, np.int32), np.arange(len(digests), dtype=np.int32))

    @classmethod
    def merged(cls, indices: Sequence[_Index]) -> _Index:
        heads = np.concatenate([index.heads for index in indices])
        order = np.argsort(heads)
        part, row = np.concatenate([index.part for index in indices]), np.concatenate([index.row for index in indices])
        return cls(heads[order], part[order], row[order])


def _heads(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]


def _part(path: Path, fingerprint: str) -> _Part | None:
    """A part; None if it is damaged, and set aside: then its rows are asked for anew.

    Raises:
        TeacherError: it cannot be read, or holds rows of another teacher.
    """
    try:
        return _read(path, fingerprint)
    except FileNotFoundError:  # somebody else has set it aside
        return None
    except OSError as wrong:
        try_ = "see to the disk, then the same again"
        raise TeacherError(what=path, got=wrong.strerror, wanted="a part of the cache that can be read", try_=try_) from None
    except (ValueError, KeyError, TypeError) as wrong:
        aside = path.with_name(f"{path.name}.damaged")
        with suppress(FileNotFoundError):
            os.replace(path, aside)
        _log.warning("set aside, its rows are asked for anew: %s: a damaged part of the cache (%s)", aside, wrong)
        return None


def _read(path: Path, fingerprint: str) -> _Part:
    """A part as maps of its file: the library's own readers would copy every row into memory."""
    raw = np.memmap(path, dtype=np.uint8, mode="r")
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8:start].tobytes())
    if header["__metadata__"]["fingerprint"] != fingerprint:
        got, try_ = f"rows of teacher {header['__metadata__']['fingerprint']}", "move it to the folder of that name"
        raise TeacherError(what=path, got=got, wanted=f"rows of {fingerprint}", try_=try_)
    digests: NDArray[np.uint8] = _tensor(raw[start:], header["digests"], "U8")
    rows: Half = _tensor(raw[start:], header["rows"], "F16").view(np.float16)
    if digests.shape != (len(rows), 16):
        raise ValueError("digests and rows that do not fit")
    return _Part(digests, rows)


def _tensor(raw: NDArray[np.uint8], entry: Any, name: str) -> NDArray[np.uint8]:
    """The bytes `[n, ...]` of one tensor of a safetensors file whose header ends where `raw` begins."""
    begin, end = entry["data_offsets"]
    (count, _) = entry["shape"]
    if entry["dtype"] != name or not 0 <= begin <= end <= len(raw):
        raise ValueError("a wrong header")
    return raw[begin:end].reshape(count, -1)
