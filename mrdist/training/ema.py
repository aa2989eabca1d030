"""A running mean of a module's weights, kept shard by shard."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Average:
    """Follows a module: after step t, `mean = d mean + (1 - d) weights` with d = min(decay, (1 + t) / (10 + t)).

    The warm-up of d keeps a short run from averaging in its random start. Buffers are copied.

    Each rank follows what it holds. Under ZeRO-3 `parameter.data` is empty and following it would silently do
    nothing; `shard` therefore says where the numbers of a parameter really are on this rank. Following shards is
    exact, because the mean is taken number by number, and needs no communication.
    """

    def __init__(self, module: nn.Module, decay: float, shard: Callable[[nn.Parameter], Tensor]) -> None:
        self.module, self.decay, self.shard = module, decay, shard
        self.held = {name: shard(p).detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move towards the weights that step number `step` left behind."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.module.named_parameters():
            self.held[name].lerp_(self.shard(parameter).detach(), 1 - decay)
