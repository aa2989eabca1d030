"""Units of work as files: tensors and a completion marker, written beside and renamed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mrdist.data.tensors import Tensors, damaged
from mrdist.errors import DataError
from mrdist.files import put

_log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]

INDEX = "index"
"""The name of the unit that is written last: it says that a folder is complete, and what is in it."""

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
    try:
        put(path, data)
    except OSError as wrong:
        raise DataError(
            what=str(path),
            got=wrong.strerror,
            wanted=f"{max(1, len(data) >> 20)} MB written",
            try_="free space or give another folder, then run again: only what is missing is done",
        ) from None


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
            raise damaged(path, "no such file", "the completion marker of a unit") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise damaged(path, "something else", "the completion marker of a unit") from None
        if not re.fullmatch(re.escape(name) + r"-[0-9a-f]{12}\.safetensors", str(file)):
            raise damaged(path, f"tensors in {file!r}", f"a file {name}-*.safetensors of this folder")
        try:
            held = os.stat(self.folder / file, follow_symlinks=False).st_size
        except OSError:
            raise damaged(self.folder / file, "no such file", f"{size} bytes") from None
        if held != size:
            raise damaged(self.folder / file, f"{held} bytes", f"{size} bytes, as {path.name} says")
        return Unit(name, file, size, sha256, marker)

    def has(self, name: str) -> bool:
        """Whether a unit is done: marked, and of the right size."""
        try:
            self.unit(name)
        except DataError:
            return False
        return True

    def missing(self, numbers: Iterable[int], *, thorough: bool = False) -> list[int]:
        """Those of `numbers` that are still to be done, or to be done again.

        Args:
            thorough: read every unit and compare hashes; one that is damaged is given up, so that nobody takes it for done.
        """
        return [number for number in numbers if not (self.sound if thorough else self.has)(unit_name(number))]

    def sound(self, name: str) -> bool:
        """Whether a unit is done and its bytes are those that were written; gives it up if they are not."""
        try:
            self._compare(self.unit(name))
        except DataError as wrong:
            if self.marked(name):
                _log.warning("to be made again: %s", wrong)
                self.give_up(name)
            return False
        return True

    def marked(self, name: str) -> bool:
        """Whether somebody said that a unit is done; its tensors may be damaged."""
        return (self.folder / f"{name}.json").exists()

    def give_up(self, name: str) -> None:
        """Take back that a unit is done."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def read(self, name: str) -> tuple[Arrays, Unit]:
        """All arrays of a unit, in memory, and its marker.

        Raises:
            DataError: the unit is missing or damaged.
        """
        unit = self.unit(name)
        try:
            data = (self.folder / unit.file).read_bytes()
            _same(self.folder / unit.file, unit, hashlib.sha256(data).hexdigest())
            return load(data), unit
        except (SafetensorError, OSError) as wrong:
            raise damaged(self.folder / unit.file, str(wrong), "safetensors") from None

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
                self._compare(self.unit(path.stem))
            except DataError as wrong:
                yield wrong

    def _compare(self, unit: Unit) -> None:
        path = self.folder / unit.file
        try:
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as wrong:
            raise damaged(path, str(wrong.strerror), "a file that can be read") from None
        _same(path, unit, found)

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


def _same(path: Path, unit: Unit, found: str) -> None:
    if found != unit.sha256:
        raise damaged(path, f"sha256 {found[:12]}...", f"{unit.sha256[:12]}..., as {unit.name}.json says")


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
