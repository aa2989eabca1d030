"""Rows of length 1, with a gradient that takes little memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SHORT = 1e-12
"""Rows shorter than this have no direction: they become short rows, and get no gradient."""


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        out: Tensor = rows / length.clamp(min=SHORT)
        ctx.save_for_backward(out, length)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        out, length = ctx.saved_tensors
        # What points along a row changes its length alone. A batch's gradient is large: one copy of it, not four.
        along = torch.einsum("bd,bd->b", out, grad)[:, None]
        return torch.addcmul(grad, out, along, value=-1).div_(length.clamp(min=SHORT)).masked_fill_(length < SHORT, 0.0)


def unit(rows: Tensor) -> Tensor:
    """Rows `[b, d]` divided by their lengths."""
    held: Tensor = _Unit.apply(rows)  # type: ignore[no-untyped-call]
    return held
