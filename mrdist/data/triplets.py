"""What a run trains on: the triplets of every shape, by row number; whole, or growing while others make them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Self

import numpy as np

from mrdist.data.contents import ROOM, Contents, Growing, Indexed, Rows
from mrdist.data.order import TRAIN, Prefix
from mrdist.data.parts import Half, Layout, Part, Row
from mrdist.data.shards import INDEX, Shards, unit_name
from mrdist.data.tensors import AGAIN
from mrdist.data.waiting import Wait
from mrdist.errors import DataError
from mrdist.shapes import Points, Triplet

_OPEN_PARTS = 256  # each is an open file, of which a process may often have no more than 1,024


class TripletStore:
    """The triplets of a folder by row number; opens a part when a row of it is asked for. Safe to read from several threads.

    It is whole, or grows while others make it: then `has` and `within` tell of the parts that are there, and whoever asks about the
    whole waits for it. A row keeps its number, whatever parts come before it.
    """

    def __init__(self, shards: Shards, contents: Contents, *, parts: int, width: int, points: int, trained: Prefix | None) -> None:
        self.folder = shards.folder
        self.width, self.points = width, points
        self._shards, self._contents, self._count, self._trained = shards, contents, parts, trained
        self._wait: Wait | None = None
        self._parts: OrderedDict[int, Part] = OrderedDict()
        self._layouts: dict[int, Layout] = {}
        self._lock = Lock()

    @classmethod
    def open(cls, folder: Path, trained: Prefix | None = None) -> Self:
        """The store in `folder`.

        Args:
            trained: which shapes of the training split count; None: all.

        Raises:
            DataError: it is not complete, or its index is damaged.
        """
        shards = Shards(folder)
        index, about = shards.open(INDEX)
        contents = Indexed(index, about)
        parts, width, points = len(contents.begins) - 1, about.notes["width"], about.notes["points"]
        return cls(shards, contents, parts=parts, width=width, points=points, trained=trained)

    @classmethod
    def follow(cls, folder: Path, wait: Wait, *, parts: int, width: int, points: int, trained: Prefix | None = None) -> Self:
        """The store that others make in `folder`; nothing of it need be there yet.

        Args:
            wait: how long to wait for them.
            parts: how many there will be.
        """
        shards = Shards(folder)
        store = cls(shards, Growing(shards), parts=parts, width=width, points=points, trained=trained)
        store._wait = wait
        return store

    @property
    def followed(self) -> bool:
        """Whether others may still be making it, as far as was known when it was opened."""
        return self._wait is not None

    def complete(self) -> bool:
        """Whether all of it is there now."""
        if not isinstance(self._contents, Indexed):
            try:
                self._contents = Indexed(*self._shards.open(INDEX))
            except DataError:
                return False
        return True

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that shapes belong to. Waits for the whole store."""
        return self._whole().splits

    def __len__(self) -> int:
        return len(self._whole())

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
        return self._contents.id(*divmod(row, ROOM))

    def category(self, row: int) -> str:
        """The category of the shape in row `row`; "" if it has none."""
        return self._contents.category(*divmod(row, ROOM))

    def captions(self, row: int) -> tuple[str, ...]:
        """What `text` of that row embeds, in its order."""
        part, k = self._place(row)
        return part.captions(k)

    def rows(self) -> Rows:
        """The numbers of all rows, in the order of the catalogue's units: int64 [rows]."""
        return self._whole().rows()

    def indices(self, split: str) -> Rows:
        """The rows of a split, ascending; of the training split those that are trained on: int64 [rows]. Waits for the whole store.

        Raises:
            DataError: no shape belongs to that split.
        """
        whole = self._whole()
        if split not in whole.splits:
            raise DataError(
                what=f"split {split!r} of {self.folder}", got="no shape", wanted=f"one of {', '.join(whole.splits)}", try_="another split"
            )
        rows = whole.rows(split)
        last = self._trained.parts - 1 if self._trained and split == TRAIN else self._count
        before, after = np.searchsorted(rows, [last * ROOM, (last + 1) * ROOM])
        return np.concatenate([rows[:before], self._cut(last, split, rows[before:after])])

    def parts(self, split: str) -> int:
        """Only parts before this one hold rows of a split."""
        return self._trained.parts if self._trained and split == TRAIN else self._count

    def has(self, part: int) -> bool:
        """Whether a part is there; always, where the store is whole."""
        return self._contents.has(part)

    def within(self, part: int, split: str) -> Rows:
        """The rows of a split in one part that is there, as `indices` has them."""
        return self._cut(part, split, self._contents.within(part, split))

    def find(self, name: str, near: int) -> int | None:
        """The row of a shape in the part of row `near`, which need not exist; None where the part does not hold it."""
        part, k = divmod(near, ROOM)
        count = self._contents.count(part)
        # Its old place first: rounds rarely differ in what could be drawn.
        places = (k, *range(count)) if k < count else range(count)
        return next((part * ROOM + place for place in places if self._contents.id(part, place) == name), None)

    def missed(self, what: str) -> None:
        """Note that something of a store that grows is not there yet; see `Wait`.

        Raises:
            DataError: nobody makes it.
        """
        if self._wait is not None:
            self._wait.missed(what)

    def verify(self) -> Iterator[DataError]:
        """Read everything and compare hashes: yields one error per damaged part."""
        return self._shards.verify()

    def _cut(self, part: int, split: str, rows: Rows) -> Rows:
        return self._trained.of(part, rows, self.id) if self._trained and split == TRAIN else rows

    def _whole(self) -> Indexed:
        if self._wait is not None and not self.complete():
            self._wait.until(self.complete, f"all of {self.folder}")
        assert isinstance(self._contents, Indexed)
        return self._contents

    def _place(self, row: int) -> tuple[Part, int]:
        number, k = divmod(row, ROOM)
        if not (0 <= number < self._count and self.has(number) and k < self._contents.count(number)):
            raise IndexError(f"no row {k} of part {number}")
        return self._part(number), k

    def _part(self, number: int) -> Part:
        with self._lock:
            held = self._parts.get(number)
            if held is not None:
                self._parts.move_to_end(number)
                return held
        layout = self._layouts.get(number)
        opened = self._new(number) if layout is None else Part.again(layout)
        with self._lock:
            self._parts[number], self._layouts[number] = opened, opened.layout
            if len(self._parts) > _OPEN_PARTS:
                self._parts.popitem(last=False)  # its file closes when the last thread that reads it is done
        return opened

    def _new(self, number: int) -> Part:
        tensors, marker = self._shards.open(unit_name(number))
        rows = self._contents.count(number)
        if tensors.length("xyz") != rows:
            raise DataError(
                what=str(self.folder / marker.file),
                got=f"{tensors.length('xyz')} shapes",
                wanted=f"{rows}, as the index says",
                try_=AGAIN,
            )
        return Part(tensors)
