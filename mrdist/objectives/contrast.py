"""Symmetric contrast with a learnt scale, as CLIP, OpenShape and Uni3D have it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mrdist.objectives.parts.bounds import bounded
from mrdist.ranks import Ranks
from mrdist.relation import definition
from mrdist.relation.definition import Modality


class Scale(nn.Module):
    """What multiplies cosines before a softmax: exp of one learnt number, 1 / temperature, never above `limit`."""

    def __init__(self, temperature: float = 0.07, limit: float = 100.0) -> None:
        super().__init__()
        self.highest = math.log(limit)
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]))

    def forward(self, like: Tensor, ranks: Ranks) -> Tensor:
        """The scale, [1], in the dtype of `like`."""
        return bounded(self.log_scale.to(like.dtype), -math.inf, self.highest, ranks).exp()


def contrast(points: Modality, others: Modality, ranks: Ranks, scale: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """My share of ½ CE(points, others) + ½ CE(others, points) over shapes that have both, and what to show beside it.

    The figures: `reference`, log of the number of columns, what a student that tells nothing apart pays; `accuracy`, how many rows
    find their own column (a tie with it, by an equal caption, is no mistake). Both are shares, as the loss is.
    """
    held = definition.contrast(points, others, ranks, scale=scale)
    columns = (points.there & others.there).sum().clamp(min=1)
    return ranks.mean(held.surprise, held.rows), {
        "reference": columns.to(held.surprise.dtype).log(),
        "accuracy": ranks.mean(held.hit.to(held.surprise.dtype), held.rows),
    }
