"""The mean squared difference of cosines, without ever meeting a pair: O(N d²) instead of O(N² d).

    Σ_ij ρ_i κ_j (Σ_a c_a x^a_i · y^a_j)²  =  Σ_ab c_a c_b ⟨X^aᵀ ρ X^b, Y^aᵀ κ Y^b⟩

with a over the student's product (c = 1) and the teachers' (c = −their share): d x d matrices, summed over ranks. Distances have no such
form, because of their square root, nor has an absolute value. The sum is a difference of larger ones: in float32 it is good to about
10⁻⁶ of the teacher's own mean square, which is what a student that knows nothing pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrdist.ranks import Ranks
from mrdist.relation.tile import Product, Side


@dataclass(frozen=True)
class Squared:
    """A term: the mean over rows of the mean squared difference from the teacher's cosines. Both its directions are one number."""

    name: str
    student: Product
    rows: tuple[int, ...]  # modalities that a row must have
    columns: tuple[int, ...]  # and a column
    teachers: tuple[Product, ...]  # one, or two that are mixed
    own_too: bool  # whether a row relates to its own column
    share: int | None = None  # of the first of two teachers: its place among the scalars

    def needs(self, direction: int) -> tuple[int, ...]:
        """What a row must have, seen from a direction."""
        return self.columns if direction else self.rows

    def value(
        self, features: Sequence[Tensor], flags: Tensor | None, scalars: Sequence[Tensor], ranks: Ranks, queue: Side | None = None
    ) -> tuple[Tensor, Tensor]:
        """The term, differentiable, and what the teacher's mean everywhere would pay; 0-dim, global. Every rank calls.

        Args:
            features: per modality [b, d] unit rows.
            flags: [modalities, b], 1 where a row has that modality; None where everyone has everything.
            queue: more columns within each modality, the same on every rank.
        """
        products = (self.student, *self.teachers)
        first = features[0].new_ones(()) if self.share is None else scalars[self.share].reshape(())
        factors = [features[0].new_ones(()), -first, first - 1][: len(products)]
        here, there = (_mask(features[0], flags, self.needs(d)) for d in (0, 1))
        mine = [_Side([features[x] for x, _ in products], here), _Side([features[y] for _, y in products], there)]
        moments = ranks.sum(torch.stack([side.moments() for side in mine]))  # [2, products, products, d, d]
        sums = ranks.sum(torch.stack([side.sums() for side in mine]))  # [2, products, d]
        own = torch.stack([(features[x] * features[y]).sum(-1) for x, y in products])
        counts = ranks.total(torch.stack([here.sum(), there.sum(), (here * there).sum()]))
        if queue is not None and self.student[0] == self.student[1]:
            also = _mask(queue.features[0], queue.flags, self.columns).to(here.dtype)
            old = _Side([queue.features[y].to(here.dtype) for _, y in products], also)
            moments = torch.stack([moments[0], moments[1] + old.moments()])
            sums = torch.stack([sums[0], sums[1] + old.sums()])
            counts = torch.stack([counts[0], counts[1] + also.sum(), counts[2]])
        pairs = (counts[0] * counts[1] - (0 if self.own_too else counts[2])).clamp(min=1)
        every = torch.stack(factors)
        grams = (moments[0] * moments[1]).sum((-2, -1), dtype=torch.float64)  # [products, products]

        def mean(of: Tensor) -> Tensor:
            """The mean square, over all pairs, of a combination of products."""
            whole = (of[:, None] * of * grams).sum()
            return (whole if self.own_too else whole - ranks.sum(((of @ own).square() * here * there).sum(dtype=torch.float64))) / pairs

        taught = every.detach() * (torch.arange(len(products), device=every.device) > 0)
        middle = (taught * (sums[0] * sums[1]).sum(-1)).sum()
        if not self.own_too:
            middle = middle - ranks.total(((taught @ own) * here * there).sum())
        ignorant = mean(taught).detach() - (middle.detach() / pairs).square()
        return mean(every).to(every.dtype), ignorant.to(every.dtype)


class _Side:
    """The rows, or the columns, of all products, those that do not count set to zero."""

    def __init__(self, features: Sequence[Tensor], here: Tensor) -> None:
        self.features = torch.stack([rows * here[:, None] for rows in features])

    def moments(self) -> Tensor:
        """[products, products, d, d]: X^aᵀ X^b."""
        return torch.einsum("aid,bie->abde", self.features, self.features)

    def sums(self) -> Tensor:
        """[products, d]."""
        return self.features.sum(1)


def _mask(like: Tensor, flags: Tensor | None, needs: Sequence[int]) -> Tensor:
    return like.new_ones(len(like)) if flags is None else flags[list(needs)].prod(0).to(like.dtype)
