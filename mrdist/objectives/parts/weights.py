"""How several terms become one: fixed, or by weights that are learnt with the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mrdist.objectives.parts.bounds import bounded
from mrdist.ranks import Ranks


class Weighted(NamedTuple):
    """Terms made one."""

    total: Tensor  # 0-dim, this rank's share; differentiated
    weights: Tensor  # [K], detached: what each term was multiplied by
    price: Tensor  # 0-dim, detached: what the weights themselves cost


class Weights(nn.Module):
    """Something that makes K terms one.

    `terms [K]` are this rank's shares; `present [K]` bool, the same on every rank, marks terms that this batch has anything to say about:
    an absent one neither counts nor moves a weight. Learnt weights are one vector, which takes no weight decay.
    """

    def forward(self, terms: Tensor, present: Tensor, ranks: Ranks) -> Weighted:
        """The weighted sum of the present terms, plus the price of the weights."""
        raise NotImplementedError


class Fixed(Weights):
    """Σ_k w_k L_k with given weights."""

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.weights = tuple(weights)

    def forward(self, terms: Tensor, present: Tensor, ranks: Ranks) -> Weighted:
        weights = terms.new_tensor(self.weights) * present
        return Weighted((weights * terms).sum(), weights, terms.new_zeros(()))


class Uncertainty(Weights):
    """Σ_k (e^{−s_k} L_k + s_k), s_k learnt, 0 at first, within ±limit (D1; Kendall et al., CVPR 2018).

    At rest e^{−s_k} = 1 / L_k: no term can buy itself off, and the limit keeps a vanishing term from taking over.
    """

    def __init__(self, count: int, limit: float = 3.0) -> None:
        super().__init__()
        self.limit = limit
        self.log_variance = nn.Parameter(torch.zeros(count))

    def forward(self, terms: Tensor, present: Tensor, ranks: Ranks) -> Weighted:
        s = bounded(self.log_variance.to(terms.dtype), -self.limit, self.limit, ranks)
        weights = (-s).exp() * present
        price = (s * present).sum()
        return Weighted((weights * terms).sum() + price, weights.detach(), price.detach())


class Softmax(Weights):
    """K Σ_k α_k L_k − η H(α), α a softmax of learnt numbers over the present terms, none below `floor` (D2).

    By itself it runs to the smallest term: ∂/∂w_k ∝ α_k (L_k − Σ_j α_j L_j). The floor, and an entropy bonus with
    η = `entropy` · mean L, hold it.
    """

    def __init__(self, count: int, floor: float = 0.1, entropy: float = 0.1) -> None:
        super().__init__()
        self.floor = min(floor, 1 / count)
        self.entropy = entropy
        self.preference = nn.Parameter(torch.zeros(count))

    def forward(self, terms: Tensor, present: Tensor, ranks: Ranks) -> Weighted:
        count = present.sum().clamp(min=1)
        # A large finite number: were all terms absent, a softmax over -inf would be nan.
        alpha = torch.where(present, self.preference.to(terms.dtype), -1e6).softmax(0)
        alpha = (self.floor + (1 - self.floor * count) * alpha) * present
        spread = -(alpha * alpha.clamp(min=1e-12).log()).sum()
        # The bonus must be the same on every rank: it is scaled by the global terms, not by this rank's shares.
        price = -self.entropy * ranks.average(terms.sum() / count) * spread
        weights = count * alpha
        return Weighted((weights * terms).sum() + price, weights.detach(), price.detach())


class Share(nn.Module):
    """A learnt share between two teachers, σ(w), ½ at first, within [low, 1 − low] (D3).

    The bound matters: the share's gradient draws the teachers' mix towards the student, not the student towards a teacher.
    """

    def __init__(self, low: float = 0.1) -> None:
        super().__init__()
        self.edge = math.log(1 / low - 1)
        self.preference = nn.Parameter(torch.zeros(1))

    def forward(self, like: Tensor, ranks: Ranks) -> Tensor:
        """The share, [1], in the dtype of `like`."""
        return bounded(self.preference.to(like.dtype), -self.edge, self.edge, ranks).sigmoid()
