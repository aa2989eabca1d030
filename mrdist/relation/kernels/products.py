"""The cosines of one tile: a few dozen rows times a hundred columns, never written to memory.

A program of any kernel here makes one tile of TALL x WIDE pairs and goes through the inner dimension DEPTH at a time. Operands are read
through tensor descriptors (the copy engine of sm_90 and later: no address arithmetic in registers, zeros beyond the ends) or through
pointers (sm_80; the last row is repeated beyond the end). Either way what lies beyond the ends is finite, and its mask is zero.
"""
# Kernel parameters are pointers, descriptors and scalars of Triton's own types: mypy has no name for them.
# mypy: disable-error-code="misc, no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
ROOM = tl.constexpr(60.0)  # e^60, and sums of it over any batch, are float32 numbers


@triton.jit
def part(X, first, k, count, D: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr, DESCRIPTORS: tl.constexpr):
    """[ROWS, DEPTH] of X [count, D], from row `first` and column k."""
    if DESCRIPTORS:
        return X.load([first, k])
    else:
        rows = tl.minimum(first + tl.arange(0, ROWS), count - 1).to(tl.int64)
        depth = k + tl.arange(0, DEPTH)
        at = X + rows[:, None] * D + depth[None, :]
        if D % DEPTH == 0:
            return tl.load(at)
        else:
            return tl.load(at, mask=(depth < D)[None, :], other=0.0)


@triton.jit
def product(X, Y, i, j, m, n, D: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr, DEPTH: tl.constexpr, DESCRIPTORS: tl.constexpr):
    """X Yᵀ, float32 [TALL, WIDE], from row i and column j."""
    s = tl.zeros((TALL, WIDE), tl.float32)
    for k in range(0, D, DEPTH):
        x = part(X, i, k, m, D, TALL, DEPTH, DESCRIPTORS)
        y = part(Y, j, k, n, D, WIDE, DEPTH, DESCRIPTORS)
        s = tl.dot(x, y.T, s, input_precision="ieee")
    return s


@triton.jit
def products(X, U, Y, i, j, m, n, D: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr, DEPTH: tl.constexpr, DESCRIPTORS: tl.constexpr):
    """X Yᵀ and U Yᵀ with one reading of Y: a third less to load than two products."""
    s = tl.zeros((TALL, WIDE), tl.float32)
    r = tl.zeros((TALL, WIDE), tl.float32)
    for k in range(0, D, DEPTH):
        y = part(Y, j, k, n, D, WIDE, DEPTH, DESCRIPTORS).T
        s = tl.dot(part(X, i, k, m, D, TALL, DEPTH, DESCRIPTORS), y, s, input_precision="ieee")
        r = tl.dot(part(U, i, k, m, D, TALL, DEPTH, DESCRIPTORS), y, r, input_precision="ieee")
    return s, r


@triton.jit
def pieces(s, P: tl.constexpr):
    """s [TALL, WIDE] as P tensors [TALL, WIDE / P] of consecutive columns, P a power of two; nothing moves between threads.

    What follows a product is done piece by piece: of a whole tile, its coefficients alone would fill the registers.
    """
    if P == 1:
        return (s,)
    else:
        left, right = s.reshape(s.shape[0], 2, s.shape[1] // 2).permute(0, 2, 1).split()
        return pieces(left, P // 2) + pieces(right, P // 2)


@triton.jit
def power(scale, s):
    """exp(scale s - max(scale - ROOM, 0)): one fused multiply-add and one exp2."""
    return tl.exp2(scale * LOG2E * s - tl.maximum(scale - ROOM, 0.0) * LOG2E)
