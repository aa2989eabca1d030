"""The contrast of SigLIP: every pair decides for itself whether it belongs together (Zhai et al. 2023, arXiv 2303.15343).

L = (1/n) Σ_ij −log σ(z_ij (t a_i·b_j + β)),   z = 1 on the diagonal, −1 elsewhere;   ∂/∂logit = σ(logit) − [i = j]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mrdist.relation.term import Rows, Seen, Slopes, Sums, Term, Wanted
from mrdist.relation.tile import TIE, Product, Tile, over_columns, over_rows


@dataclass(frozen=True)
class Sigmoid(Term):
    """Half of what each row pays, and half of what each column does: their pairs are the same."""

    scale: int
    bias: int

    @property
    def own(self) -> tuple[Product, ...]:
        return (self.student,)

    def figures(self, direction: int) -> tuple[str, ...]:
        return ("accuracy",)[direction:]

    def width(self, sweep: int, direction: int) -> int:
        return (2, 1)[direction] if sweep == 0 else 0

    def _logits(self, tile: Tile) -> Tensor:
        return tile.scalars[self.scale] * tile.cosines(self.student) + tile.scalars[self.bias]

    def sums(self, tile: Tile, sweep: int, rows: Tensor, columns: Tensor, *, both: bool) -> Sums:
        s, logits = tile.cosines(self.student), self._logits(tile)
        cost = softplus(logits)
        if tile.apart is not None:
            cost = cost - (1 - tile.apart) * logits  # log(1 + e^x) - x = log(1 + e^-x)
        own = tile.rows.own[self.student] + TIE * torch.finfo(s.dtype).eps
        beaten = (s > own[:, None]).to(s.dtype)
        return Sums(
            over_columns((cost, beaten), tile.columns.has(self.columns)),
            over_rows((cost,), tile.rows.has(self.rows)) if both else None,
        )

    def costs(self, seen: Seen) -> Rows:
        cost, *beaten = seen.sums[0]
        figures = {"accuracy": (beaten[0] == 0).to(cost.dtype)} if beaten else {}
        return Rows(cost, figures, torch.zeros_like(cost, dtype=torch.bool))

    def coefficients(self, seen: Seen, weight: Tensor) -> Tensor:
        return weight[None]

    def slopes(self, tile: Tile, rows: Tensor, columns: Tensor, wanted: Wanted) -> Slopes:
        slope = self._logits(tile).sigmoid()
        if tile.apart is not None:
            slope = slope - (1 - tile.apart)
        slope = tile.kept(slope * (rows[0][:, None] + columns[0]), self.rows, self.columns)
        out = Slopes({}, {})
        out.logits(tile, self.student, self.scale, slope, wanted)
        if self.bias in wanted.scalars:
            out.move(self.bias, slope.sum(dtype=torch.float64) * tile.counted[0])
        return out
