"""What a term is made of, one tile at a time: sums over the tile's rows and columns, and the gradient of its cosines.

A *term* is a mean over rows (and, unless rows and columns are one modality, over columns likewise) of a number that a row's cosines
with all columns decide. It is computed in sweeps over all tiles (`tile`): in each, tiles add up a few sums per row; when they are whole,
the row's number follows, and after the last sweep the coefficients with which each tile can say its part of the gradient alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from mrdist.ranks import Ranks
from mrdist.relation.tile import Product, Tile


class Sums(NamedTuple):
    """What a tile adds to its rows and to its columns."""

    rows: Tensor  # [k, m]
    columns: Tensor | None  # [k, n]; None where nobody asked


class Slopes(NamedTuple):
    """A tile's part of the gradient."""

    cosines: dict[Product, Tensor]  # ∂ loss / ∂ cosine, [m, n]
    scalars: dict[int, Tensor]  # ∂ loss / ∂ scalar, 0-dim float64, by its place

    def add(self, product: Product, slope: Tensor) -> None:
        """Join a term's part."""
        self.cosines[product] = self.cosines[product] + slope if product in self.cosines else slope

    def move(self, place: int, slope: Tensor) -> None:
        """Join a scalar's part."""
        self.scalars[place] = self.scalars[place] + slope if place in self.scalars else slope

    def logits(self, tile: Tile, product: Product, place: int, slope: Tensor, wanted: Wanted) -> None:
        """Join ∂ loss / ∂ (scale · cosine), [m, n], as what is wanted of it; `place` is the scale's."""
        if wanted.product(product):
            self.add(product, tile.scalars[place] * slope)
        if place in wanted.scalars:
            x, y = product
            self.move(place, (slope * tile.cosines(product)).sum(dtype=torch.float64) * tile.counted[x == y])


class Seen(NamedTuple):
    """What my rows know when their sums are whole, in one direction. All tensors are float64."""

    sums: tuple[Tensor, ...]  # of every sweep so far, [k, b]
    scalars: tuple[Tensor, ...]  # 0-dim
    own: Tensor  # [b]: cosine of each row's two modalities; zeros within a modality
    here: Tensor  # [b], 1 for rows that count, else 0
    rows: Tensor  # 0-dim: how many rows of all ranks count, at least 1
    columns: Tensor  # 0-dim: how many columns exist for a row that counts
    average: Tensor  # 0-dim: over all pairs, of the cosines that the term wants `averaged`; for `costs`
    ranks: Ranks

    def mean(self, values: Tensor) -> Tensor:
        """My part, 0-dim, of the mean of `values [b]` over the rows that count, on all ranks: their sum is the mean."""
        # Not `values * here`: a row that does not count may hold nan.
        return torch.where(self.here > 0, values, 0.0).sum() / self.rows


class Rows(NamedTuple):
    """What a term says of my rows when their sums are whole."""

    cost: Tensor  # [b]: what each row pays
    figures: dict[str, Tensor]  # name -> [b], what is worth knowing besides
    lost: Tensor  # [b] bool: whether its sums fell below what the dtype holds


class Wanted(NamedTuple):
    """Which gradients somebody waits for, by their places."""

    modalities: frozenset[int]
    scalars: frozenset[int]

    def product(self, product: Product) -> bool:
        """Whether a product's cosines lead to one of them."""
        return not self.modalities.isdisjoint(product)


@dataclass(frozen=True)
class Term(ABC):
    """A mean over rows, and over columns, of what their cosines decide.

    The mean of a direction is over the rows that have all modalities `rows` (in the other direction: the columns that have all
    `columns`); to others they do not exist. The term is the mean of its directions.
    """

    name: str
    student: Product
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    one_way: bool = field(default=False, kw_only=True)  # columns that are no rows: one direction, no own pair among them

    reductions: ClassVar[tuple[str, ...]] = ("sum",)
    """What each sweep does with what tiles say of a row: sum, or max."""

    @property
    def symmetric(self) -> bool:
        """Whether rows and columns are one modality: then there is one direction, and its gradient is symmetric."""
        return self.student[0] == self.student[1]

    @property
    def directions(self) -> int:
        """1 within a modality and one way, else 2."""
        return 1 if self.symmetric or self.one_way else 2

    @property
    def excludes_own(self) -> bool:
        """Whether a row's own column does not exist for it."""
        return False

    @property
    def products(self) -> tuple[Product, ...]:
        """The cosines that it reads."""
        return (self.student,)

    @property
    def own(self) -> tuple[Product, ...]:
        """The products of which tiles need the number of each row with itself."""
        return ()

    @property
    def averaged(self) -> Product | None:
        """The product of which it wants to know the mean over all pairs, for which nobody has to meet one."""
        return None

    def careful(self) -> Term:
        """The same term in a form that no data can break."""
        return self

    def needs(self, direction: int) -> tuple[int, ...]:
        """What a row must have, seen from a direction: 0 for rows, 1 for columns."""
        return self.columns if direction else self.rows

    def figures(self, direction: int) -> tuple[str, ...]:
        """What `costs` tells besides the cost, seen from a direction."""
        return ()

    @abstractmethod
    def width(self, sweep: int, direction: int) -> int:
        """How many sums per row a sweep adds up in a direction; 0 where it has no such sweep."""

    @abstractmethod
    def sums(self, tile: Tile, sweep: int, rows: Tensor, columns: Tensor, *, both: bool) -> Sums:
        """What this tile adds in a sweep.

        Args:
            rows: [k, m], what `settled` said after the sweep before, of the rows in direction 0.
            columns: [k, n], of the columns in direction 1 (0 where there is one only).
            both: whether the sums of the columns are wanted.
        """

    def settled(self, seen: Seen) -> Tensor:
        """[k, b]: what the next sweep needs to know of my rows. Every rank calls."""
        return seen.own.new_empty(0, len(seen.own))

    @abstractmethod
    def costs(self, seen: Seen) -> Rows:
        """What each of my rows pays in one direction."""

    @abstractmethod
    def coefficients(self, seen: Seen, weight: Tensor) -> Tensor:
        """[k, b]: with what each row, of weight `weight` [b] in the loss, enters its tiles' gradients. Every rank calls."""

    def scalar_slopes(self, seen: Seen, weight: Tensor) -> dict[int, Tensor]:
        """My rows' part of the gradient by scalars that needs no tile: 0-dim, by their places."""
        return {}

    @abstractmethod
    def slopes(self, tile: Tile, rows: Tensor, columns: Tensor, wanted: Wanted) -> Slopes:
        """The gradient of the loss by this tile's cosines; `rows` [k, m] and `columns` [k, n] are coefficients."""


@dataclass(frozen=True)
class Relation(Term):
    """A term that holds the student's cosines against teachers'."""

    teachers: tuple[Product, ...]  # one, or two that are mixed
    own_too: bool  # whether a row relates to its own column

    @property
    def excludes_own(self) -> bool:
        return not self.own_too

    @property
    def products(self) -> tuple[Product, ...]:
        return self.student, *self.teachers
