"""A tile: a block of rows against a block of columns, its cosines and their exponentials.

A *product* names two modalities, (rows', columns'): its cosines in a tile are one matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

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
