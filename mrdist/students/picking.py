"""Farthest points on a GPU, in Triton: one launch for a batch, one program for a cloud, its distances in registers.

torch needs eight small kernels for every pick, hundreds of times over: they cost more than a small student's whole step.
"""
# mypy: disable-error-code="misc, no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _pick(Xyz, Picks, points, count, BLOCK: tl.constexpr):
    """Picks of the cloud `Xyz [B, 3, N]`; the first stands there already."""
    row = tl.program_id(0).to(tl.int64)
    X, mine = Xyz + row * 3 * points, Picks + row * count
    Y, Z = X + points, X + 2 * points
    at = tl.arange(0, BLOCK)
    inside = at < points
    gap = tl.where(inside, float("inf"), -1.0)  # what is no point is never the farthest
    pick = tl.load(mine).to(tl.int32)
    for k in range(1, count):
        x = tl.load(X + at, mask=inside, other=0.0) - tl.load(X + pick)
        y = tl.load(Y + at, mask=inside, other=0.0) - tl.load(Y + pick)
        z = tl.load(Z + at, mask=inside, other=0.0) - tl.load(Z + pick)
        gap = tl.minimum(gap, x * x + y * y + z * z)
        pick = tl.argmax(gap, 0).to(tl.int32)  # of equals the first, as in torch
        tl.store(mine + k, pick.to(tl.int64))


def farthest(xyz: Tensor, count: int, start: Tensor) -> Tensor:
    """`grouping.farthest` from given first points: the same picks, to the last tie.

    Args:
        xyz: [B, N, 3] float32; of more than 16,384 points, distances would not stay in registers.
        start: [B] int64.

    Returns:
        [B, count] int64.
    """
    rows, points, _ = xyz.shape
    picks = torch.empty(rows, count, dtype=torch.int64, device=xyz.device)
    picks[:, 0] = start
    block = triton.next_power_of_2(points)
    # Without fused products, whose rounding would decide between near neighbours otherwise than torch and fpsample do.
    how = {"num_warps": max(4, min(32, block // 256)), "enable_fp_fusion": False}
    _pick[(rows,)](xyz.transpose(1, 2).contiguous(), picks, points, count, BLOCK=block, **how)
    return picks
