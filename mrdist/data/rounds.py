"""Shapes that are drawn again while a run goes on: which epoch sees which round of views."""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import Lock

from mrdist.data.parts import Row
from mrdist.data.triplets import TripletStore
from mrdist.errors import DataError


def rounds(*, steps: int, per_epoch: int, every: int) -> int:
    """How many rounds so many steps see, if shapes are drawn again for each `every` epochs (0 = never) of `per_epoch` steps."""
    return math.ceil(math.ceil(steps / per_epoch) / every) if every and per_epoch else 1


class Rounds:
    """Epoch e sees round e // `every`. Which shapes there are, and in which order, is decided by round 0 alone."""

    def __init__(self, first: TripletStore, every: int, later: Callable[[int], TripletStore | None]) -> None:
        """
        Args:
            first: round 0.
            every: epochs of one round; 0 = round 0 serves all epochs.
            later: opens another round; None as long as it is not complete.
        """
        self._every, self._later = every, later
        self._stores = [first]
        self._lock = Lock()

    def epochs(self) -> float:
        """How many epochs can be served now."""
        with self._lock:
            while self._every and (store := self._later(len(self._stores))) is not None:
                self._stores.append(store)
        return self._every * len(self._stores) if self._every else math.inf

    @property
    def next(self) -> str:
        """The first round that is not there, in words."""
        return f"round {len(self._stores)} of {self._stores[0].folder}"

    def row(self, row: int, epoch: int) -> Row:
        """What an epoch sees of a row of round 0; a shape that a later round could not draw is seen as it was in round 0.

        Raises:
            DataError: it cannot be read, or its round was not prepared.
        """
        first, number = self._stores[0], epoch // self._every if self._every else 0
        if number == 0:
            return first.row(row)
        if number >= len(self._stores):
            self.epochs()
        if number >= len(self._stores):
            raise DataError(what=self.next, got="no index", wanted="all rounds that the recipe's steps need", try_="mrdist prepare")
        held = self._stores[number]
        again = held.find(first.id(row), row)
        return first.row(row) if again is None else held.row(again)
