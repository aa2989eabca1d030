"""What a tile adds to the sums of its rows and of its columns: the forward pass of the relation loss.

Every program writes its own partial sums and torch adds them: no atomics, so the same inputs give the same bits. For 64 x 128 pairs of a
contrast and a comparison that is 1.5 bytes per pair, which stay in the L2 cache.
"""
# mypy: disable-error-code="misc, no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from mrdist.relation.kernels.products import pieces, power, product, products


@triton.jit
def put(values, here_i, here_j, Rows, Columns):
    """Write sums along the rows of [TALL, W], over the columns that are here, and along its columns, over the rows that are here."""
    tl.store(Rows + tl.arange(0, values.shape[0]), tl.sum(values * here_j[None, :], 1))
    tl.store(Columns + tl.arange(0, values.shape[1]), tl.sum(values * here_i[:, None], 0))


@triton.jit
def contrast(s, alpha, here_i, here_j, own_i, tie, rows, columns, Rows, Columns,
             TALL: tl.constexpr, WIDE: tl.constexpr, DIAGONAL: tl.constexpr):  # fmt: skip
    """neg and moment of cosines s, and beaten of its rows."""
    mu_i, mu_j = tl.load(here_i + rows).to(tl.float32), tl.load(here_j + columns).to(tl.float32)
    x = power(tl.load(alpha), s)
    before = s > (tl.load(own_i + rows) + tie)[:, None]
    if DIAGONAL:
        other = rows[:, None] != columns[None, :]
        x = tl.where(other, x, 0.0)
        before = before & other
    put(x, mu_i, mu_j, Rows, Columns)
    put(x * s, mu_i, mu_j, Rows + TALL, Columns + WIDE)
    tl.store(Rows + 2 * TALL + tl.arange(0, s.shape[0]), tl.sum(tl.where(before, mu_j[None, :], 0.0), 1))


@triton.jit
def compare(s, r, gamma, beta, here_i, here_j, rows, columns, Rows, Columns, TALL: tl.constexpr, WIDE: tl.constexpr, APART: tl.constexpr):
    """Z_a, Z_b, U_a, U_b and V of student cosines s and teacher cosines r."""
    rho, kappa = tl.load(here_i + rows).to(tl.float32), tl.load(here_j + columns).to(tl.float32)
    gamma, beta = tl.load(gamma), tl.load(beta)
    b = beta * r
    c = gamma * s - b
    e, q = power(gamma, s), power(beta, r)
    if APART:
        other = rows[:, None] != columns[None, :]
        e, q = tl.where(other, e, 0.0), tl.where(other, q, 0.0)
    put(e, rho, kappa, Rows, Columns)
    put(q, rho, kappa, Rows + TALL, Columns + WIDE)
    put(e * c, rho, kappa, Rows + 2 * TALL, Columns + 2 * WIDE)
    put(q * c, rho, kappa, Rows + 3 * TALL, Columns + 3 * WIDE)
    put(q * b, rho, kappa, Rows + 4 * TALL, Columns + 4 * WIDE)


@triton.jit(do_not_specialize=["m", "n"])
def tile_sums(
    X, Y, U1, V1, U2, V2, m, n,
    alpha, mu_i, mu_j, own_i, tie,
    gamma1, beta1, rho1, kappa1, gamma2, beta2, rho2, kappa2,
    Rows, Columns,
    D: tl.constexpr, CONTRAST: tl.constexpr, TEACHERS: tl.constexpr, SHARED: tl.constexpr,
    DIAGONAL: tl.constexpr, APART1: tl.constexpr, APART2: tl.constexpr,
    TALL: tl.constexpr, WIDE: tl.constexpr, P: tl.constexpr, DEPTH: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """One tile's Rows [column tiles, row tiles, P, K, TALL] and Columns [column tiles, row tiles, L, WIDE].

    K, L numbers: 3 of a contrast's rows, 2 of its columns, and 5 of each teacher.

    SHARED: the first teacher's columns are the student's (V1 is Y). APART1, APART2: that comparison leaves the diagonal out.
    Vectors have a number for every row or column of every tile, masks a zero where the operands end.
    """
    K: tl.constexpr = 3 * CONTRAST + 5 * TEACHERS
    L: tl.constexpr = 2 * CONTRAST + 5 * TEACHERS
    W: tl.constexpr = WIDE // P
    i, j = tl.program_id(0) * TALL, tl.program_id(1) * WIDE
    rows = i + tl.arange(0, TALL)
    tile = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    Rows += tile * (P * K * TALL)
    Columns += tile * (L * WIDE)
    if SHARED:
        s, r = products(X, U1, Y, i, j, m, n, D, TALL, WIDE, DEPTH, DESCRIPTORS)
    else:
        s = product(X, Y, i, j, m, n, D, TALL, WIDE, DEPTH, DESCRIPTORS)
    s = pieces(s, P)
    if CONTRAST:
        for p in tl.static_range(P):
            columns = j + p * W + tl.arange(0, W)
            contrast(s[p], alpha, mu_i, mu_j, own_i, tie, rows, columns, Rows + p * K * TALL, Columns + p * W, TALL, WIDE, DIAGONAL)
        Rows += 3 * TALL
        Columns += 2 * WIDE
    if TEACHERS > 0:
        if not SHARED:
            r = product(U1, V1, i, j, m, n, D, TALL, WIDE, DEPTH, DESCRIPTORS)
        r = pieces(r, P)
        for p in tl.static_range(P):
            columns = j + p * W + tl.arange(0, W)
            compare(s[p], r[p], gamma1, beta1, rho1, kappa1, rows, columns, Rows + p * K * TALL, Columns + p * W, TALL, WIDE, APART1)
        Rows += 5 * TALL
        Columns += 5 * WIDE
    if TEACHERS > 1:
        r = pieces(product(U2, V2, i, j, m, n, D, TALL, WIDE, DEPTH, DESCRIPTORS), P)
        for p in tl.static_range(P):
            columns = j + p * W + tl.arange(0, W)
            compare(s[p], r[p], gamma2, beta2, rho2, kappa2, rows, columns, Rows + p * K * TALL, Columns + p * W, TALL, WIDE, APART2)
