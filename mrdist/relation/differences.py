"""The terms that compare pairs number by number: cosines, or distances over their mean.

‖a − b‖² = ‖a‖² + ‖b‖² − 2 a·b, so a tile's cosines are all that is needed here too. Of a distance only its tangential gradient is
given: along a row, a gradient that whoever normalised the row throws away.

    x̂_ij = x_ij / μ, μ the mean of x over all pairs of all ranks;  L = Σ_i w_i Σ_j f(x̂_ij − ŷ_ij)
    ∂L/∂x_ij = w_i f'_ij / μ − (1 / (μ · pairs)) Σ_kl w_k f'_kl x̂_kl                   cosines: μ = 1, and no second part
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mrdist.relation.term import Relation, Rows, Seen, Slopes, Sums, Wanted
from mrdist.relation.tile import Product, Tile

SAME = 64.0
"""Rounding errors of a squared distance within which two rows are one: their distance is 0, and so is its gradient."""

LEAST = 1e-6
"""A mean distance is never less: rows that all are one have no scale."""

COSTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "l1": (torch.abs, torch.sign),
    "l2": (torch.square, lambda u: 2 * u),
    "huber": (
        lambda u: torch.nn.functional.huber_loss(u, torch.zeros_like(u), reduction="none", delta=1.0),
        lambda u: u.clamp(-1, 1),
    ),
}
"""name -> (f, f')"""


@dataclass(frozen=True)
class Difference(Relation):
    """The mean of f(student's number − teacher's) over a row's columns; two teachers' numbers may be mixed."""

    divergence: str  # a key of COSTS
    distance: bool  # distances over their mean; else cosines
    share: int | None = None  # of the first of two teachers: its place among the scalars

    reductions: ClassVar[tuple[str, ...]] = ("sum", "sum")

    @property
    def own(self) -> tuple[Product, ...]:
        return tuple((k, k) for product in self.products for k in product) if self.distance else ()

    def figures(self, direction: int) -> tuple[str, ...]:
        return ("reference",)

    def width(self, sweep: int, direction: int) -> int:
        return (len(self.products), 2 + len(self.products))[sweep] if sweep < 2 else 0

    def _numbers(self, tile: Tile) -> list[Tensor]:
        """Of student and teachers, before any mean."""
        cosines = [tile.cosines(product) for product in self.products]
        if not self.distance:
            return cosines
        rows, columns = tile.rows.own, tile.columns.own
        squared = [rows[x, x][:, None] + columns[y, y] - 2 * s for (x, y), s in zip(self.products, cosines, strict=True)]
        return [torch.where(d > SAME * torch.finfo(d.dtype).eps, d, 0.0).sqrt() for d in squared]

    def _exist(self, tile: Tile, like: Tensor) -> Tensor:
        exist = tile.kept(torch.ones_like(like), self.rows, self.columns)
        return exist if self.own_too else tile.without_own(exist)

    def _taught(self, tile: Tile, numbers: list[Tensor]) -> Tensor:
        if self.share is None:
            return numbers[0]
        first = tile.scalars[self.share]
        return first * numbers[0] + (1 - first) * numbers[1]

    def sums(self, tile: Tile, sweep: int, rows: Tensor, columns: Tensor, *, both: bool) -> Sums:
        numbers = self._numbers(tile)
        exist = self._exist(tile, numbers[0])
        if sweep == 0:
            held = [x * exist for x in numbers]
        else:
            # The means are the same for all rows, and in both directions.
            numbers = [x / mean for x, mean in zip(numbers, rows[:-1, :, None], strict=True)]
            cost, slope = COSTS[self.divergence]
            off = numbers[0] - self._taught(tile, numbers[1:])
            ignorant = rows[-1][:, None] - self._taught(tile, numbers[1:])
            held = [cost(off) * exist, cost(ignorant) * exist, *(slope(off) * x * exist for x in numbers)]
        return Sums(torch.stack([x.sum(1) for x in held]), torch.stack([x.sum(0) for x in held]) if both else None)

    def _pairs(self, seen: Seen) -> Tensor:
        return (seen.ranks.total(seen.here.sum()) * seen.columns).clamp(min=1)

    def settled(self, seen: Seen) -> Tensor:
        whole = seen.ranks.total((seen.sums[0] * seen.here).sum(1)) / self._pairs(seen)
        means = whole.clamp(min=LEAST) if self.distance else torch.ones_like(whole)
        taught = (whole / means)[1:]
        middle = taught[0] if self.share is None else seen.scalars[self.share] * taught[0] + (1 - seen.scalars[self.share]) * taught[1]
        return torch.cat([means, middle[None]])[:, None].expand(-1, len(seen.own))

    def costs(self, seen: Seen) -> Rows:
        cost, ignorant = seen.sums[1][:2] / seen.columns.clamp(min=1)
        return Rows(cost, {"reference": ignorant}, torch.zeros_like(cost, dtype=torch.bool))

    def coefficients(self, seen: Seen, weight: Tensor) -> Tensor:
        each = weight / seen.columns.clamp(min=1)
        means = self.settled(seen._replace(sums=seen.sums[:1]))[:-1]
        moved = torch.zeros_like(means)
        if self.distance:
            first = 1.0 if self.share is None else seen.scalars[self.share]
            signs = torch.stack(
                [torch.as_tensor(s, dtype=means.dtype, device=means.device) for s in (1.0, -first, first - 1)[: len(means)]]
            )
            by_mean = seen.ranks.total((each * seen.sums[1][2:]).sum(1)) * signs
            moved = (-by_mean / (means[:, 0] * self._pairs(seen)))[:, None].expand_as(means)
        return torch.cat([each[None], means, moved])

    def scalar_slopes(self, seen: Seen, weight: Tensor) -> dict[int, Tensor]:
        if self.share is None:
            return {}
        _, _, _, first, second = seen.sums[1]
        return {self.share: (weight / seen.columns.clamp(min=1) * (second - first)).sum()}

    def slopes(self, tile: Tile, rows: Tensor, columns: Tensor, wanted: Wanted) -> Slopes:
        bare, count = self._numbers(tile), len(self.products)
        exist = self._exist(tile, bare[0])
        means, moved = rows[1 : 1 + count, :, None], rows[1 + count :, :, None] + columns[1 + count :, None, :]
        numbers = [x / mean for x, mean in zip(bare, means, strict=True)]
        slope = COSTS[self.divergence][1](numbers[0] - self._taught(tile, numbers[1:])) * (rows[0][:, None] + columns[0])
        first = 1.0 if self.share is None else tile.scalars[self.share]
        out = Slopes({}, {})
        for k, (product, part) in enumerate(zip(self.products, (1.0, -first, first - 1), strict=False)):
            if wanted.product(product):
                by_number = (part * slope / means[k] + moved[k]) * exist
                out.cosines[product] = by_number if not self.distance else torch.where(bare[k] > 0, -by_number / bare[k], 0.0)
        return out
