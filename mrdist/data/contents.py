"""What the parts of a store hold: as its index says, or, while there is none, as the markers of those parts say that are there."""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mrdist.data.shards import Arrays, Shards, Unit, unit_name
from mrdist.data.tensors import Tensors
from mrdist.errors import DataError

_log = logging.getLogger(__name__)

Rows = NDArray[np.int64]

ROOM = 1 << 20
"""The number of a row is that of its part times this, plus its place in the part: it says nothing of other parts, there or not."""


class Contents(Protocol):
    """Ids, splits and categories of shapes, by part and place in the part. Safe to read from several threads."""

    def has(self, part: int) -> bool:
        """Whether a part is there; the others may be asked about it from then on."""

    def count(self, part: int) -> int:
        """How many shapes it holds."""

    def id(self, part: int, k: int) -> str:
        """The id of a shape."""

    def category(self, part: int, k: int) -> str:
        """Its category, "" if it has none."""

    def within(self, part: int, split: str) -> Rows:
        """The row numbers of a split in one part, ascending."""


class Indexed:
    """The contents of a whole store, from its index: arrays, as there may be millions of shapes."""

    def __init__(self, index: Tensors, about: Unit) -> None:
        held: Arrays = {name: index[name] for name in ("begins", "split", "category", "ids", "ids_at")}
        self._held, self.begins = held, held["begins"]
        self.splits: tuple[str, ...] = tuple(about.notes["splits"])
        self._categories: tuple[str, ...] = tuple(about.notes["categories"])

    def __len__(self) -> int:
        return len(self._held["split"])

    def has(self, part: int) -> bool:
        return True

    def count(self, part: int) -> int:
        return int(self.begins[part + 1] - self.begins[part])

    def id(self, part: int, k: int) -> str:
        place, at = self.begins[part] + k, self._held["ids_at"]
        return self._held["ids"][at[place] : at[place + 1]].tobytes().decode()

    def category(self, part: int, k: int) -> str:
        return self._categories[int(self._held["category"][self.begins[part] + k])]

    def within(self, part: int, split: str) -> Rows:
        if split not in self.splits:
            return np.zeros(0, np.int64)
        codes = self._held["split"][self.begins[part] : self.begins[part + 1]]
        return part * ROOM + np.flatnonzero(codes == self.splits.index(split))

    def rows(self, split: str | None = None) -> Rows:
        """All row numbers, or those of a split; ascending."""
        chosen = np.arange(len(self)) if split is None else np.flatnonzero(self._held["split"] == self.splits.index(split))
        part = np.searchsorted(self.begins, chosen, side="right") - 1
        rows: Rows = part * ROOM + chosen - self.begins[part]
        return rows


class Growing:
    """The contents of a store that others are still making: what the markers say of the parts that have been asked for."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._known: dict[int, dict[str, list[str]]] = {}
        self._damaged: set[int] = set()  # those that were complained of

    def has(self, part: int) -> bool:
        if part not in self._known:
            try:
                self._known[part] = self._shards.unit(unit_name(part)).notes
            except DataError as wrong:  # not there yet, or damaged: then it is made again
                if part not in self._damaged and self._shards.marked(unit_name(part)):
                    self._damaged.add(part)
                    _log.warning("waiting until somebody makes it again: %s", wrong)
                return False
        return True

    def count(self, part: int) -> int:
        return len(self._known[part]["ids"])

    def id(self, part: int, k: int) -> str:
        return self._known[part]["ids"][k]

    def category(self, part: int, k: int) -> str:
        return self._known[part]["categories"][k]

    def within(self, part: int, split: str) -> Rows:
        return part * ROOM + np.flatnonzero([held == split for held in self._known[part]["splits"]])
