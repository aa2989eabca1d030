"""What a run trains on: points, image and text embeddings of every shape, in parts that are complete in themselves."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mrdist.data.shards import INDEX, Arrays, Shards, Tensors, Unit, pack, split, unit_name
from mrdist.errors import DataError
from mrdist.shapes import Points, Triplet

Half = NDArray[np.float16]
Rows = NDArray[np.int64]

PART = 256
"""Shapes per part: tens of megabytes at 10,000 points, some thousand files per million shapes."""

_OPEN_PARTS = 256  # each is an open file, of which a process may often have no more than 1,024


def write_part(shards: Shards, number: int, triplets: Sequence[Triplet], splits: Sequence[str], *, width: int, points: int) -> Unit:
    """Write some triplets as one part.

    Arrays: `xyz` float16 [K, N, 3], `rgb` uint8 [K, N, 3], `image` float16 [sum V, E] and `text` float16 [sum T, E], whose rows of shape
    k are `image_at[k]:image_at[k + 1]`; captions as UTF-8, one per row of `text`. The marker lists ids, splits and categories.

    Args:
        width: E, which a part without a single view must know too.
        points: N, likewise.
    """
    assert len(triplets) == len(splits)

    def stacked(clouds: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.stack(clouds) if clouds else np.zeros((0, points, 3), np.float32)

    def rows(blocks: list[Half]) -> tuple[Half, Rows]:
        at = np.concatenate([[0], np.cumsum([len(block) for block in blocks])]).astype(np.int64)
        return np.concatenate([np.zeros((0, width), np.float16), *blocks]), at

    image, image_at = rows([t.image for t in triplets])
    text, text_at = rows([t.text for t in triplets])
    captions, captions_at = pack(caption for t in triplets for caption in t.captions)
    assert len(captions_at) - 1 == len(text), "one caption per text embedding"
    arrays: Arrays = {
        "xyz": stacked([t.points.xyz for t in triplets]).astype(np.float16),
        "rgb": np.rint(stacked([t.points.rgb for t in triplets]) * 255).astype(np.uint8),
        "image": image,
        "image_at": image_at,
        "text": text,
        "text_at": text_at,
        "captions": captions,
        "captions_at": captions_at,
    }
    ids, categories = [t.id for t in triplets], [t.category for t in triplets]
    return shards.write(unit_name(number), arrays, {"ids": ids, "splits": list(splits), "categories": categories})


def write_index(shards: Shards, parts: int, *, width: int, points: int) -> Unit:
    """Say that all `parts` are there: one small file from which a store of millions opens at once.

    Raises:
        DataError: a part is missing or damaged, or two shapes have one id.
    """
    markers = [shards.unit(unit_name(number)) for number in range(parts)]
    ids = [name for marker in markers for name in marker.notes["ids"]]
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(
            what=str(shards.folder), got=f"id {twice[0]!r} more than once", wanted="one row per shape", try_="rename it in the catalogue"
        )

    def codes(field: str) -> tuple[list[str], NDArray[np.int32]]:
        values = [value for marker in markers for value in marker.notes[field]]
        names = sorted(set(values))
        code = {name: i for i, name in enumerate(names)}
        return names, np.array([code[value] for value in values], dtype=np.int32)

    splits, split_of = codes("splits")
    categories, category_of = codes("categories")
    packed, ids_at = pack(ids)
    begins = np.concatenate([[0], np.cumsum([len(marker.notes["ids"]) for marker in markers])]).astype(np.int64)
    arrays: Arrays = {"begins": begins, "split": split_of, "category": category_of, "ids": packed, "ids_at": ids_at}
    files = [marker.sha256 for marker in markers]
    return shards.write(
        INDEX, arrays, {"width": width, "points": points, "shapes": len(ids), "splits": splits, "categories": categories, "parts": files}
    )


class Row(NamedTuple):
    """One shape as it is stored; arrays are read-only."""

    xyz: Half  # [N, 3]
    rgb: NDArray[np.uint8]  # [N, 3]
    image: Half  # [V, E]
    text: Half  # [T, E]


class _Part:
    """One part, open; where things are is in memory, the things are not."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.at: dict[str, Rows] = {name: tensors[f"{name}_at"] for name in ("image", "text", "captions")}

    def embeddings(self, name: str, k: int) -> Half:
        first, last = self.at[name][k : k + 2]
        return self.tensors.rows(name, int(first), int(last))

    def captions(self, k: int) -> tuple[str, ...]:
        first, last = self.at["text"][k : k + 2]
        at = self.at["captions"][first : last + 1]
        packed = self.tensors.rows("captions", int(at[0]), int(at[-1]))
        return tuple(caption.decode() for caption in split(packed, at - at[0]))


class TripletStore:
    """The triplets of a folder by row number; opens a part when a row of it is asked for. Safe to read from several threads."""

    def __init__(self, shards: Shards, index: Tensors, about: Unit) -> None:
        self.folder = shards.folder
        self.width: int = about.notes["width"]
        self.points: int = about.notes["points"]
        self.splits: tuple[str, ...] = tuple(about.notes["splits"])
        self.categories: tuple[str, ...] = tuple(about.notes["categories"])
        self._shards = shards
        self._index: Arrays = {name: index[name] for name in ("begins", "split", "category", "ids", "ids_at")}
        self._parts: OrderedDict[int, _Part] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The store in `folder`.

        Raises:
            DataError: it is not complete, or its index is damaged.
        """
        shards = Shards(folder)
        return cls(shards, *shards.open(INDEX))

    def __len__(self) -> int:
        return len(self._index["split"])

    def __getitem__(self, row: int) -> Triplet:
        held = self.row(row)
        points = Points(held.xyz.astype(np.float32), np.divide(held.rgb, 255, dtype=np.float32))
        return Triplet(self.id(row), self.category(row), points, held.image, held.text, self.captions(row))

    def row(self, row: int) -> Row:
        """Row `row` as it is stored.

        Raises:
            DataError: its part is missing or damaged.
            IndexError: there is no such row.
        """
        part, k = self._place(row)
        xyz, rgb = (part.tensors.rows(name, k, k + 1)[0] for name in ("xyz", "rgb"))
        return Row(xyz, rgb, part.embeddings("image", k), part.embeddings("text", k))

    def taught(self, row: int) -> tuple[Half, Half]:
        """What the teacher says of row `row`, image [V, E] and text [T, E], without reading its points.

        Raises:
            DataError, IndexError: as `row`.
        """
        part, k = self._place(row)
        return part.embeddings("image", k), part.embeddings("text", k)

    def id(self, row: int) -> str:
        """The id of the shape in row `row`."""
        at = self._index["ids_at"]
        return self._index["ids"][at[row] : at[row + 1]].tobytes().decode()

    def category(self, row: int) -> str:
        """The category of the shape in row `row`; "" if it has none."""
        return self.categories[int(self._index["category"][row])]

    def captions(self, row: int) -> tuple[str, ...]:
        """What `text` of that row embeds, in its order."""
        part, k = self._place(row)
        return part.captions(k)

    def indices(self, split: str) -> Rows:
        """The rows of a split, in the order of the catalogue: int64 [rows].

        Raises:
            DataError: no shape belongs to that split.
        """
        if split not in self.splits:
            raise DataError(
                what=f"split {split!r} of {self.folder}", got="no shape", wanted=f"one of {', '.join(self.splits)}", try_="another split"
            )
        return np.flatnonzero(self._index["split"] == self.splits.index(split))

    def verify(self) -> Iterator[DataError]:
        """Read everything and compare hashes: yields one error per damaged part."""
        return self._shards.verify()

    def _place(self, row: int) -> tuple[_Part, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        begins = self._index["begins"]
        number = int(np.searchsorted(begins, row, side="right")) - 1
        return self._part(number), row - int(begins[number])

    def _part(self, number: int) -> _Part:
        with self._lock:
            held = self._parts.get(number)
            if held is not None:
                self._parts.move_to_end(number)
                return held
        tensors, marker = self._shards.open(unit_name(number))
        rows = self._index["begins"][number + 1] - self._index["begins"][number]
        if tensors.length("xyz") != rows:
            raise DataError(
                what=str(self.folder / marker.file),
                got=f"{tensors.length('xyz')} shapes",
                wanted=f"{rows}, as the index says",
                try_="run `mrdist prepare` again",
            )
        with self._lock:
            self._parts[number] = _Part(tensors)
            if len(self._parts) > _OPEN_PARTS:
                self._parts.popitem(last=False)  # its file closes when the last thread that reads it is done
            return self._parts[number]
