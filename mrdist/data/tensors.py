"""Reading a safetensors file row by row, from any number of threads."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from mrdist.errors import DataError

Places = dict[str, tuple[np.dtype[Any], tuple[int, ...], int]]
"""Of every array: its type, its shape, and where in the file it begins."""

_TYPES = {"F16": "<f2", "F32": "<f4", "U8": "u1", "I32": "<i4", "I64": "<i8"}


class Tensors:
    """A tensors file that is open for reading, from any number of threads; closed when nobody holds it any more.

    Rows are read, not mapped: where a mapped file is cut off, or its server gone, the kernel kills the process without a word;
    here it is an error that names the file. And a read lets other threads run while the disk is slow.
    """

    def __init__(self, path: Path, places: Places | None = None) -> None:
        """
        Args:
            places: those of the same file when it was open before; None: they are read.

        Raises:
            DataError: it is no such file.
        """
        self.path, self._file = path, -1
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.places = places or self._read()
        except (SafetensorError, OSError, KeyError, ValueError, struct.error) as wrong:
            raise damaged(path, str(wrong), "safetensors") from None

    def _read(self) -> Places:
        with safe_open(self.path, framework="np"):  # checks the whole header: types, shapes, places
            (length,) = struct.unpack("<Q", os.pread(self._file, 8, 0))
        header = json.loads(os.pread(self._file, length, 8))
        return {
            key: (np.dtype(_TYPES[held["dtype"]]), tuple(held["shape"]), 8 + length + held["data_offsets"][0])
            for key, held in header.items()
        }

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A whole array."""
        return self.rows(name, 0, self.length(name))

    def length(self, name: str) -> int:
        """How many rows an array has."""
        return int(self.places[name][1][0])

    def rows(self, name: str, first: int, last: int) -> NDArray[Any]:
        """Rows `first` to `last - 1` of an array; read-only.

        Raises:
            DataError: they cannot be read.
        """
        dtype, shape, begin = self.places[name]
        assert 0 <= first <= last <= shape[0], (name, first, last, shape)
        row = dtype.itemsize * math.prod(shape[1:])
        try:
            data = os.pread(self._file, (last - first) * row, begin + first * row)
        except OSError as wrong:
            raise damaged(self.path, str(wrong.strerror), "a file that can be read") from None
        if len(data) != (last - first) * row:
            raise damaged(self.path, f"an end {(last - first) * row - len(data)} bytes too early", f"rows {first} to {last - 1} of {name}")
        return np.frombuffer(data, dtype=dtype).reshape(last - first, *shape[1:])


AGAIN = "run `mrdist prepare` again (`mrdist data convert`, if that made the store): it does what is missing or damaged"
"""What helps where a part of a store is not what somebody wrote."""


def damaged(path: Path, got: str, wanted: str, try_: str = AGAIN) -> DataError:
    """The error for a file that is not what somebody wrote."""
    return DataError(what=str(path), got=got, wanted=wanted, try_=try_)
