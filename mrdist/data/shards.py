"""Units of work as files: tensors and a completion marker, written beside and renamed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from mrdist.errors import DataError

Arrays = dict[str, NDArray[Any]]

INDEX = "index"
"""The name of the unit that is written last: it says that a folder is complete, and what is in it."""

_TYPES = {"F16": "<f2", "F32": "<f4", "U8": "u1", "I32": "<i4", "I64": "<i8"}
_OWN_FIELDS = ("file", "bytes", "sha256")
_ABANDONED = 3600.0  # seconds after which another writer's half-written file belongs to nobody


def unit_name(number: int) -> str:
    """The name of a numbered unit: 12 -> "00012"."""
    return f"{number:05d}"


def publish(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, force it to the disk, and rename it into place: all of it or nothing is ever seen.

    Raises:
        DataError: the disk is full, or the folder cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _settle(path.parent)
    except OSError as wrong:
        raise DataError(
            what=str(path),
            got=wrong.strerror,
            wanted=f"{max(1, len(data) >> 20)} MB written",
            try_="free space or give another folder, then run again: only what is missing is done",
        ) from None
    finally:
        beside.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Force the folder's list of names to the disk: a rename that is not there after a power cut never happened."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Unit:
    """One completion marker: which tensors file belongs to it, and what was noted beside."""

    name: str
    file: str
    bytes: int
    sha256: str
    notes: dict[str, Any]


class Shards:
    """A folder of units, each a marker `00012.json` and the tensors file that it names, `00012-5f70bf18a086.safetensors`.

    The marker is renamed into place last, and the name of the tensors file carries its hash. So whoever writes the folder, and however many
    at once: what a marker names is there, whole, and its own. A unit without a marker, or whose tensors file has another size than the
    marker says, has not been done. No file of the folder is ever executed, unpickled, or followed out of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, Any]) -> Unit:
        """Write a unit, in place of what stood under that name.

        Equal arrays and notes give equal bytes. `notes` is anything JSON knows.

        Raises:
            DataError: the disk is full, or the folder cannot be written; no half unit is left.
        """
        assert not set(notes) & set(_OWN_FIELDS), notes.keys()
        data = save({key: np.ascontiguousarray(value) for key, value in arrays.items()})
        sha256 = hashlib.sha256(data).hexdigest()
        unit = Unit(name, f"{name}-{sha256[:12]}.safetensors", len(data), sha256, dict(notes))
        marker = {**{field: getattr(unit, field) for field in _OWN_FIELDS}, **notes}
        text = json.dumps(marker, allow_nan=False, separators=(",", ":"))
        publish(self.folder / unit.file, data)
        publish(self.folder / f"{name}.json", text.encode() + b"\n")
        return unit

    def unit(self, name: str) -> Unit:
        """The marker of a unit whose tensors file has the right size.

        Raises:
            DataError: no marker, not a marker, or the tensors file is missing or cut off.
        """
        path = self.folder / f"{name}.json"
        try:
            marker = json.loads(path.read_bytes())
            file, size, sha256 = (marker.pop(field) for field in _OWN_FIELDS)
        except FileNotFoundError:
            raise _damaged(path, "no such file", "the completion marker of a unit") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise _damaged(path, "something else", "the completion marker of a unit") from None
        if not re.fullmatch(re.escape(name) + r"-[0-9a-f]{12}\.safetensors", str(file)):
            raise _damaged(path, f"tensors in {file!r}", f"a file {name}-*.safetensors of this folder")
        try:
            held = os.stat(self.folder / file, follow_symlinks=False).st_size
        except OSError:
            raise _damaged(self.folder / file, "no such file", f"{size} bytes") from None
        if held != size:
            raise _damaged(self.folder / file, f"{held} bytes", f"{size} bytes, as {path.name} says")
        return Unit(name, file, size, sha256, marker)

    def has(self, name: str) -> bool:
        """Whether a unit is done: marked, and of the right size."""
        try:
            self.unit(name)
        except DataError:
            return False
        return True

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Those of `numbers` that are still to be done, or to be done again."""
        return [number for number in numbers if not self.has(unit_name(number))]

    def read(self, name: str) -> tuple[Arrays, Unit]:
        """All arrays of a unit, in memory, and its marker.

        Raises:
            DataError: the unit is missing or damaged.
        """
        unit = self.unit(name)
        try:
            return load_file(self.folder / unit.file), unit
        except (SafetensorError, OSError) as wrong:
            raise _damaged(self.folder / unit.file, str(wrong), "safetensors") from None

    def open(self, name: str) -> tuple[Tensors, Unit]:
        """The arrays of a unit, of which nothing is read until it is asked for, and its marker.

        Raises:
            DataError: the unit is missing or damaged.
        """
        unit = self.unit(name)
        return Tensors(self.folder / unit.file), unit

    def verify(self) -> Iterator[DataError]:
        """Read every unit from the disk and compare hashes; yields what is wrong, unit by unit."""
        for path in sorted(self.folder.glob("*.json")):
            try:
                unit = self.unit(path.stem)
                with open(self.folder / unit.file, "rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != unit.sha256:
                    wanted, try_ = f"{unit.sha256[:12]}..., as {path.name} says", "remove this file, then run `mrdist prepare` again"
                    raise _damaged(self.folder / unit.file, f"sha256 {found[:12]}...", wanted, try_)
            except DataError as wrong:
                yield wrong

    def sweep(self) -> None:
        """Remove what killed writers left half-written, and tensors that no marker names, once they are old enough to be nobody's."""
        named = {self.unit(path.stem).file for path in self.folder.glob("*.json") if self.has(path.stem)}
        for pattern in (".*.tmp", "*.safetensors"):
            for path in self.folder.glob(pattern):
                try:
                    if path.name not in named and time.time() - path.stat().st_mtime > _ABANDONED:
                        path.unlink()
                except FileNotFoundError:  # somebody else sweeps too
                    continue


class Tensors:
    """A tensors file that is open for reading, from any number of threads; closed when nobody holds it any more.

    Rows are read, not mapped: where a mapped file is cut off, or its server gone, the kernel kills the process without a word;
    here it is an error that names the file. And a read lets other threads run while the disk is slow.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, -1
        try:
            with safe_open(path, framework="np"):  # checks the whole header: types, shapes, places
                self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            (length,) = struct.unpack("<Q", os.pread(self._file, 8, 0))
            header = json.loads(os.pread(self._file, length, 8))
            self._places = {
                key: (np.dtype(_TYPES[held["dtype"]]), tuple(held["shape"]), 8 + length + held["data_offsets"][0])
                for key, held in header.items()
            }
        except (SafetensorError, OSError, KeyError, ValueError, struct.error) as wrong:
            raise _damaged(path, str(wrong), "safetensors") from None

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A whole array."""
        return self.rows(name, 0, self.length(name))

    def length(self, name: str) -> int:
        """How many rows an array has."""
        return int(self._places[name][1][0])

    def rows(self, name: str, first: int, last: int) -> NDArray[Any]:
        """Rows `first` to `last - 1` of an array; read-only.

        Raises:
            DataError: they cannot be read.
        """
        dtype, shape, begin = self._places[name]
        assert 0 <= first <= last <= shape[0], (name, first, last, shape)
        row = dtype.itemsize * math.prod(shape[1:])
        try:
            data = os.pread(self._file, (last - first) * row, begin + first * row)
        except OSError as wrong:
            raise _damaged(self.path, str(wrong.strerror), "a file that can be read") from None
        if len(data) != (last - first) * row:
            raise _damaged(self.path, f"an end {(last - first) * row - len(data)} bytes too early", f"rows {first} to {last - 1} of {name}")
        return np.frombuffer(data, dtype=dtype).reshape(last - first, *shape[1:])


def _damaged(path: Path, got: str, wanted: str, try_: str = "run `mrdist prepare` again: it does what is missing or damaged") -> DataError:
    return DataError(what=str(path), got=got, wanted=wanted, try_=try_)


def pack(texts: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Strings as UTF-8 bytes and where each begins: text `i` is `bytes[at[i]:at[i + 1]]`."""
    return join(text.encode() for text in texts)


def join(pieces: Iterable[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pieces one after the other, and where each begins: piece `i` is `bytes[at[i]:at[i + 1]]`."""
    held = list(pieces)
    at = np.zeros(len(held) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in held], out=at[1:])
    return np.frombuffer(b"".join(held), dtype=np.uint8), at


def split(data: NDArray[np.uint8], at: NDArray[np.int64]) -> list[bytes]:
    """The pieces that `join` put together."""
    return [data[at[i] : at[i + 1]].tobytes() for i in range(len(at) - 1)]
