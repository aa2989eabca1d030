"""What a term is made of, one tile at a time: sums over the tile's rows and columns, and the gradient of its cosines.

A *tile* is a block of rows against a block of columns. A *product* names two modalities, (rows', columns'): its cosines in a tile are
one matrix product. A *term* is a mean over rows (and, unless rows and columns are one modality, over columns likewise) of a number that
a row's cosines with all columns decide. It is computed in sweeps over all tiles: in each, tiles add up a few sums per row; when they are
whole, the row's number follows, and after the last sweep the coefficients with which each tile can say its part of the gradient alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor

from mrdist.ranks import Ranks
from mrdist.relation.definition import ABSENT

Product: TypeAlias = tuple[int, int]
"""Modalities of the rows and of the columns, by their place among the features."""

CEILING = 60.0
"""Largest exponent: exp(60) of 10⁹ columns is far from float32's end, and cosines down to −0.2 at scale 100 are still far from 0."""

TIE = 16.0
"""Rounding errors within which two cosines are one: equal captions are no mistake of the student's."""


def offset(scale: Tensor) -> Tensor:
    """What is subtracted from every exponent scale · cosine, for all rows and columns alike.

    Cosines are at most 1, so no running maximum is needed: one exponential serves a row's softmax and a column's, and partial sums of
    tiles and of ranks simply add up. What may be lost, a row that is far from every column, is looked for afterwards.
    """
    return (scale - CEILING).clamp(min=0)


class Side(NamedTuple):
    """What a tile knows of its rows, or of its columns."""

    features: tuple[Tensor, ...]  # per modality [n, d] unit rows
    flags: Tensor | None  # [modalities, n]: 1 where a row has that modality, 0 where not; None where all have all
    own: Mapping[Product, Tensor]  # [n]: product of each row's two modalities, where a term asks for it

    def has(self, modalities: Sequence[int]) -> Tensor | None:
        """[n], 1 where a row has all of these; None where every row has."""
        return None if self.flags is None else self.flags[list(modalities)].prod(0)


class Tile:
    """Cosines of a block of rows with a block of columns, and their exponentials; each is computed once."""

    def __init__(
        self,
        rows: Side,
        columns: Side,
        scalars: Sequence[Tensor],
        *,
        apart: Tensor | None = None,
        counted: tuple[float, float] = (1.0, 1.0),
        mirror: Tile | None = None,
    ) -> None:
        self.rows, self.columns, self.scalars = rows, columns, scalars
        self.apart = apart  # where row r and column r are the same shape: [n, n], 0 on the diagonal and 1 elsewhere
        self.counted = counted  # how often sums over its pairs count, between two modalities and within one: mirrors say things twice
        self._other = mirror
        self._cosines: dict[Product, Tensor] = {}
        self._powers: dict[tuple[Product, int], Tensor] = {}

    @property
    def _mirror(self) -> Tile | None:
        """The tile that holds the same pairs the other way round; on the diagonal, this one."""
        return self._other if self.apart is None else self

    def mirrored(self, *, counted: tuple[float, float]) -> Tile:
        """The columns against the rows; what was computed here is only transposed there."""
        return Tile(self.columns, self.rows, self.scalars, counted=counted, mirror=self)

    def cosines(self, product: Product) -> Tensor:
        """[m, n], in the dtype of the scalars."""
        if product not in self._cosines:
            x, y = product
            if self._mirror is not None and (y, x) in self._mirror._cosines:
                self._cosines[product] = self._mirror._cosines[y, x].T
            else:
                self._cosines[product] = times(self.rows.features[x], self.columns.features[y].T, self.scalars[0].dtype)
        return self._cosines[product]

    def power(self, product: Product, scale: int) -> Tensor:
        """exp(scale · cosine − offset), [m, n]; `scale` is the place of it among the scalars."""
        if (product, scale) not in self._powers:
            x, y = product
            if self._mirror is not None and ((y, x), scale) in self._mirror._powers:
                self._powers[product, scale] = self._mirror._powers[(y, x), scale].T
            else:
                self._powers[product, scale] = (self.scalars[scale] * self.cosines(product) - offset(self.scalars[scale])).exp()
        return self._powers[product, scale]

    def logits(self, product: Product, scale: int, rows: Sequence[int], columns: Sequence[int], *, own_too: bool) -> Tensor:
        """scale · cosine, [m, n], and ABSENT where the row lacks one of `rows`, the column one of `columns`, or a row meets itself."""
        exist = self.kept(torch.ones_like(self.cosines(product)), rows, columns)
        if not own_too:
            exist = self.without_own(exist)
        return torch.where(exist > 0, self.scalars[scale] * self.cosines(product), ABSENT)

    def given(self, cosines: Mapping[Product, Tensor]) -> Tile:
        """The same tile, with cosines that were computed elsewhere."""
        self._cosines.update(cosines)
        return self

    def without_own(self, values: Tensor) -> Tensor:
        """`values` with 0 where a row meets itself."""
        return values if self.apart is None else values * self.apart

    def less_own(self, values: Tensor, own: Tensor) -> Tensor:
        """On the diagonal: `values` less `own` [n] where a row meets itself."""
        assert self.apart is not None
        return values - (1 - self.apart) * own

    def kept(self, values: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
        """`values` with 0 where the row lacks one of `rows`, or the column one of `columns`."""
        here, there = self.rows.has(rows), self.columns.has(columns)
        return values if here is None or there is None else values * here[:, None] * there


def times(a: Tensor, b: Tensor, wide: torch.dtype) -> Tensor:
    """a @ b of half-precision features with float32 results: rounded to bfloat16, a cosine at temperature 0.01 is off by 0.2 nats."""
    if a.dtype == wide:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=wide)
    return a.to(wide) @ b.to(wide)


def over_columns(values: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """[k, m]: the sum of each `[m, n]` over the columns that the mask keeps."""
    return torch.stack([v.sum(1) if mask is None else v @ mask for v in values])


def over_rows(values: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """[k, n]: the sum of each `[m, n]` over the rows that the mask keeps."""
    return torch.stack([v.sum(0) if mask is None else mask @ v for v in values])


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
    figures: ClassVar[tuple[str, ...]] = ()
    """What `costs` tells besides the cost."""

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

    def careful(self) -> Term:
        """The same term in a form that no data can break."""
        return self

    def needs(self, direction: int) -> tuple[int, ...]:
        """What a row must have, seen from a direction: 0 for rows, 1 for columns."""
        return self.columns if direction else self.rows

    @abstractmethod
    def width(self, sweep: int) -> int:
        """How many sums per row and direction a sweep adds up; 0 where it has no such sweep."""

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
