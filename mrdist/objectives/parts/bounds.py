"""A learnt number that stays between bounds, whatever engine moves it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mrdist.ranks import Ranks


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float, ranks: Ranks) -> Tensor:
        ctx.save_for_backward(value)
        ctx.low, ctx.high, ctx.ranks = low, high, ranks
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = grads
        (value,) = ctx.saved_tensors
        # Where a step leads is decided by everyone's gradient: a rank's share of it may point the other way.
        whole = ctx.ranks.average(grad)
        # A step goes against the gradient: stop it where it leads out, let it pass where it leads back in.
        outward = ((value <= ctx.low) & (whole > 0)) | ((value >= ctx.high) & (whole < 0))
        return grad.masked_fill(outward, 0.0), None, None, None


def bounded(value: Tensor, low: float, high: float, ranks: Ranks) -> Tensor:
    """`value` held between `low` and `high`; at a bound, gradients that lead back pass and those that lead out do not.

    Not a clamp of the parameter after each step: under ZeRO-3 a parameter is empty between steps, and under ZeRO-1 and 2 in bf16 the
    optimiser's own copy undoes it. Not torch.clamp either: outside the bounds its gradient is 0 and the parameter never returns.
    """
    held: Tensor = _Bounded.apply(value, low, high, ranks)  # type: ignore[no-untyped-call]
    return held
