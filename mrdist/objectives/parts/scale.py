"""A learnt scale of cosines, as CLIP, OpenShape and Uni3D have it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mrdist.objectives.parts.bounds import bounded
from mrdist.ranks import Ranks


class Scale(nn.Module):
    """What multiplies cosines before a softmax: exp of one learnt number, 1 / temperature, never above `limit`."""

    def __init__(self, temperature: float = 0.07, limit: float = 100.0) -> None:
        super().__init__()
        self.highest = math.log(limit)
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]))

    def forward(self, like: Tensor, ranks: Ranks) -> Tensor:
        """The scale, [1], in the dtype of `like`."""
        return bounded(self.log_scale.to(like.dtype), -math.inf, self.highest, ranks).exp()
