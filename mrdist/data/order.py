"""In which order shapes are prepared and trained on: the one thing that those who make a store and those who follow it must agree on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrdist.shapes import Shape, digest

Rows = NDArray[np.int64]

UNIT = 64
"""Shapes per unit: what a killed process may have to do again; a few megabytes of views, as much of triplets."""

TRAIN = "train"


def key(seed: int, epoch: int, name: str) -> int:
    """A seed, of 63 bits: of everything that is random about one shape in one epoch, or of something else with a name."""
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch} {name}".encode()).digest()[:8], "little") >> 1


def place(name: str) -> str:
    """Where a shape stands among all others: by a hash of its id, so that any number of neighbours are a random sample."""
    return digest(name.encode())


def units_of(shapes: Iterable[Shape]) -> list[list[Shape]]:
    """Shapes in units of `UNIT`, in the order of their places; a manifest in another order gives the same units."""
    placed = sorted(shapes, key=lambda shape: place(shape.id))
    return [placed[first : first + UNIT] for first in range(0, len(placed), UNIT)]


class Prefix(NamedTuple):
    """The shapes of a split that are trained on: those of the first `parts` parts, up to the place `last`."""

    parts: int
    last: str

    def of(self, part: int, rows: Rows, name: Callable[[int], str]) -> Rows:
        """Those of the rows `rows` of one part that belong to it; `name` says the id of a row."""
        if part < self.parts - 1:
            return rows
        return rows[[part < self.parts and place(name(row)) <= self.last for row in rows.tolist()]]


def prefix(units: Sequence[Sequence[Shape]], fraction: float) -> Prefix:
    """The first `fraction` of all shapes to train on, drawable or not; at least one shape, and a smaller one is part of a larger one."""
    held = [(number, shape.id) for number, shapes in enumerate(units) for shape in shapes if shape.split == TRAIN]
    if not held:
        return Prefix(0, "")
    number, name = held[max(1, math.ceil(fraction * len(held))) - 1]
    return Prefix(number + 1, place(name))


def parts_first(seed: int, parts: int) -> list[int]:
    """The parts of an epoch 0, in the order in which they are trained on."""
    order: list[int] = np.random.default_rng(key(seed, 0, "parts")).permutation(parts).tolist()
    return order


def rows_first(seed: int, part: int, rows: Rows) -> Rows:
    """The rows of one part, in the order in which epoch 0 trains on them."""
    return np.random.default_rng(key(seed, 0, f"part {part}")).permutation(rows)


def rows_later(seed: int, epoch: int, rows: Rows) -> Rows:
    """All rows, in the order of an epoch after the first."""
    return np.random.default_rng(key(seed, epoch, "order")).permutation(rows)
