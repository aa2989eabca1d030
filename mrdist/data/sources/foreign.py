"""What the data of other projects have in common: lists of shapes, files below a folder, clouds, and rows of features."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mrdist.data.sources import pickled
from mrdist.errors import DataError
from mrdist.shapes import Points, Triplet

SHAPE_LIMIT = 64 << 20
"""Bytes that the file of one shape may have; 10,000 points and their features are about one million."""

NOTHING = np.zeros((0, 0), np.float16)
"""The rows of a shape of which nobody said anything."""

LVIS = "Objaverse-LVIS (published: about 46,200 shapes of 1,156 classes)"


@dataclass(frozen=True)
class Entry:
    """One shape of a list."""

    id: str
    file: str  # as the list names it
    split: str
    category: str = ""
    row: int = 0  # in a file of many shapes
    free_text: bool = True  # whether what its maker wrote about it says something


class Table(NamedTuple):
    """What a teacher said of the classes of a test set."""

    names: tuple[str, ...]
    rows: NDArray[np.float32]  # [C, E], unit length
    file: str


class Source(Protocol):
    """A set of shapes as another project keeps it. Small and picklable: what it reads, it reads when it is asked."""

    @property
    def root(self) -> Path:
        """The folder below which the files lie."""

    @property
    def points(self) -> int:
        """Points per cloud."""

    @property
    def up(self) -> str:
        """Which axis of the files points up."""

    @property
    def teacher(self) -> str:
        """Who made the features: "MODEL:TAG" of open_clip; empty where there are none."""

    def entries(self) -> Sequence[Entry]:
        """The shapes, as they are listed.

        Raises:
            DataError: the lists are not there, or are no lists.
        """

    def triplet(self, entry: Entry) -> Triplet:
        """One shape: z up, inside the unit sphere, with its unit rows.

        Raises:
            DataError: its file is missing, or is not what it should be.
        """

    def table(self) -> Table | None:
        """The rows of the classes, if somebody stored them.

        Raises:
            DataError: they are not what they should be.
        """

    def contract(self) -> dict[str, str]:
        """What a figure that was measured on it must say: where from, which axis, which colour, how many points."""


def file_below(root: Path, named: str) -> Path:
    """The file that a list means: lists name files from where their authors kept them, so leading folders are left out until it is found.

    Raises:
        DataError: there is none below `root`.
    """
    parts = [part for part in PurePosixPath(named).parts if part != "/"]
    if parts and ".." not in parts:
        for first in range(len(parts)):
            if (path := root.joinpath(*parts[first:])).is_file():
                return path
    raise DataError(what=named[-200:], got="no such file", wanted=f"a file below {root}", try_="fetch it, then convert again")


def shape_file(root: Path, entry: Entry) -> Mapping[str, Any]:
    """What the file of a shape holds, by name.

    Raises:
        DataError: it is missing, damaged, or holds something else.
    """
    held = pickled.read(file_below(root, entry.file), limit=SHAPE_LIMIT)
    if not isinstance(held, dict):
        raise DataError(what=entry.file, got=type(held).__name__, wanted="a dict of arrays", try_="fetch it again")
    return held


def measured_under(where: str, source: Source) -> dict[str, str]:
    """The contract of shapes whose colours are what their files say."""
    return {"from": where, "up in the files": source.up, "colour in the files": "as stored", "points stored": f"{source.points} per cloud"}


def tree(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it is missing, or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as wrong:
        raise DataError(what=path, got=wrong.strerror, wanted="a JSON file", try_="give the folder that holds it") from None
    except (ValueError, RecursionError) as wrong:
        raise DataError(what=path, got=str(wrong)[:100], wanted="a JSON file", try_="fetch it again") from None


def field(row: Any, *names: str) -> str:
    """The text under the first of `names` that a row of a list has.

    Raises:
        DataError: it has none.
    """
    for name in names:
        if isinstance(row, Mapping) and isinstance(row.get(name), str):
            return str(row[name])
    raise DataError(what="a row of a list", got=str(row)[:100], wanted=f"a field {' or '.join(names)}", try_="see whether it is that list")


def cloud(xyz: Any, rgb: Any, *, up: str, count: int) -> Points:
    """`count` points with z up: a larger cloud is thinned, always alike; a smaller one is repeated.

    Args:
        xyz: [N, 3].
        rgb: [N, 3], in 0..1 or in 0..255; None for grey.

    Raises:
        DataError: no such arrays, or points that cannot be.
    """
    for name, held in (("xyz", xyz), ("rgb", xyz if rgb is None else rgb)):
        if not isinstance(held, np.ndarray) or held.dtype.kind not in "iuf" or held.ndim != 2 or held.shape[1:] != (3,) or not len(held):
            got = f"an array of shape {list(held.shape)}" if isinstance(held, np.ndarray) else type(held).__name__
            raise DataError(what=name, got=got, wanted="numbers of shape [N, 3]", try_="fetch its file again")
    if rgb is not None:
        rgb = np.asarray(rgb, np.float32)
        rgb = rgb / 255 if rgb.max() > 1 else rgb
    found = Points.of(np.asarray(xyz, np.float32), rgb, up=up)
    if len(found) == count:
        return found
    few = np.arange(count) % len(found)
    chosen = few if len(found) < count else np.sort(np.random.default_rng(0).permutation(len(found))[:count])
    return Points(found.xyz[chosen], found.rgb[chosen])


def unit_rows(features: Sequence[Any]) -> NDArray[np.float16]:
    """Features as unit rows `[K, E]`; what is not there, or zero, is left out.

    Args:
        features: arrays [E], [1, E] or [K, E]; None where there is none.

    Raises:
        DataError: something else, or numbers that are not finite.
    """
    blocks = []
    for one in features:
        if one is None:
            continue
        if not isinstance(one, np.ndarray) or one.dtype.kind != "f" or not 1 <= one.ndim <= 3 or not one.size or not np.isfinite(one).all():
            got = f"{one.dtype} of shape {list(one.shape)}" if isinstance(one, np.ndarray) else type(one).__name__
            raise DataError(what="features", got=got, wanted="finite rows", try_="fetch its file again")
        blocks.append(one.reshape(-1, one.shape[-1]).astype(np.float32))
    if len({block.shape[1] for block in blocks}) > 1:
        got = f"rows of lengths {sorted({block.shape[1] for block in blocks})}"
        raise DataError(what="features", got=got, wanted="one length", try_="features of one teacher")
    rows = np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float32)
    length = np.linalg.norm(rows, axis=1)
    there = length > 0
    return np.asarray(rows[there] / length[there, None], np.float16)
