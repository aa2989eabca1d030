"""The gradient of a tile with respect to its cosines: the backward pass of the relation loss, cosines computed anew.

What is written is one matrix per product, in the operands' dtype; the caller multiplies it by the other side's rows.
"""
# mypy: disable-error-code="misc, no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from mrdist.relation.kernels.products import pieces, power, product, products


@triton.jit
def pair(of_i, of_j, number: tl.constexpr, height, width, rows, columns):
    """A coefficient of every pair: line `number` of of_i [., height], at its row, plus that of of_j [., width], at its column."""
    return tl.load(of_i + number * height + rows)[:, None] + tl.load(of_j + number * width + columns)[None, :]


@triton.jit
def present(here_i, here_j, rows, columns):
    """1 where row and column are here, else 0."""
    return tl.load(here_i + rows).to(tl.float32)[:, None] * tl.load(here_j + columns).to(tl.float32)[None, :]


@triton.jit
def contrast(s, alpha, here_i, here_j, of_i, of_j, height, width, rows, columns, DIAGONAL: tl.constexpr):
    """alpha Ga; of_i and of_j hold h and g."""
    alpha = tl.load(alpha)
    g = power(alpha, s) * present(here_i, here_j, rows, columns) * pair(of_i, of_j, 0, height, width, rows, columns)
    if DIAGONAL:
        g = tl.where(rows[:, None] != columns[None, :], g, -pair(of_i, of_j, 1, height, width, rows, columns))
    return alpha * g


@triton.jit
def compare(s, r, gamma, beta, here_i, here_j, of_i, of_j, height, width, rows, columns, T, first, Scales, at,
            APART: tl.constexpr, TEACH: tl.constexpr, SCALES: tl.constexpr):  # fmt: skip
    """gamma Gs; writes beta Gt if TEACH, and sum Gs s and sum Gt r if SCALES; of_i and of_j hold A, K, B and L."""
    gamma, beta = tl.load(gamma), tl.load(beta)
    kept = present(here_i, here_j, rows, columns)
    c = gamma * s - beta * r
    # Masked before they meet coefficients: those are as large as what counts is small, and infinity times 0 is no number.
    e, q = power(gamma, s) * kept, power(beta, r) * kept
    if APART:
        other = rows[:, None] != columns[None, :]
        e, q = tl.where(other, e, 0.0), tl.where(other, q, 0.0)
    of_e, of_q = pair(of_i, of_j, 0, height, width, rows, columns), pair(of_i, of_j, 2, height, width, rows, columns)
    g = e * ((1.0 + c) * of_e - pair(of_i, of_j, 1, height, width, rows, columns)) - q * of_q
    if TEACH or SCALES:
        t = q * ((1.0 - c) * of_q + pair(of_i, of_j, 3, height, width, rows, columns)) - e * of_e
        if TEACH:
            write(T + first, beta * t, width, columns)
        if SCALES:
            tl.store(Scales + 2 * at, tl.sum(g * s))
            tl.store(Scales + 2 * at + 1, tl.sum(t * r))
    return gamma * g


@triton.jit
def write(G, values, width, columns):
    """The columns of the tile's rows, which begin at G and are `width` long."""
    at = tl.arange(0, values.shape[0])[:, None] * width + columns[None, :]
    tl.store(G + at, values.to(G.dtype.element_ty))


@triton.jit(do_not_specialize=["m", "n"])
def tile_gradient(
    X, Y, U1, V1, U2, V2, m, n,
    alpha, mu_i, mu_j, of_i, of_j,
    gamma1, beta1, rho1, kappa1, of1_i, of1_j,
    gamma2, beta2, rho2, kappa2, of2_i, of2_j,
    G, T1, T2, Scales, height, width,
    D: tl.constexpr, CONTRAST: tl.constexpr, TEACHERS: tl.constexpr, SHARED: tl.constexpr,
    DIAGONAL: tl.constexpr, APART1: tl.constexpr, APART2: tl.constexpr, TEACH: tl.constexpr, SCALES: tl.constexpr,
    TALL: tl.constexpr, WIDE: tl.constexpr, P: tl.constexpr, DEPTH: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """One tile of G, and if asked of T1 and T2 [height, width], and of Scales [tiles, P, TEACHERS, 2].

    Height and width are those of all tiles; vectors, SHARED, APART1 and APART2 as in `tile_sums`.
    """
    W: tl.constexpr = WIDE // P
    i, j = tl.program_id(0) * TALL, tl.program_id(1) * WIDE
    rows = i + tl.arange(0, TALL)
    first = i.to(tl.int64) * width
    if SHARED:
        s, r = products(X, U1, Y, i, j, m, n, D, TALL, WIDE, DEPTH, DESCRIPTORS)
    else:
        s = product(X, Y, i, j, m, n, D, TALL, WIDE, DEPTH, DESCRIPTORS)
        if TEACHERS > 0:
            r = product(U1, V1, i, j, m, n, D, TALL, WIDE, DEPTH, DESCRIPTORS)
    if TEACHERS > 1:
        r2 = pieces(product(U2, V2, i, j, m, n, D, TALL, WIDE, DEPTH, DESCRIPTORS), P)
    s = pieces(s, P)
    if TEACHERS > 0:
        r = pieces(r, P)
    for p in tl.static_range(P):
        columns = j + p * W + tl.arange(0, W)
        at = ((tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * P + p) * TEACHERS
        g = tl.zeros((TALL, W), tl.float32)
        if CONTRAST:
            g += contrast(s[p], alpha, mu_i, mu_j, of_i, of_j, height, width, rows, columns, DIAGONAL)
        if TEACHERS > 0:
            g += compare(s[p], r[p], gamma1, beta1, rho1, kappa1, of1_i, of1_j, height, width, rows, columns, T1, first, Scales, at,
                         APART1, TEACH, SCALES)  # fmt: skip
        if TEACHERS > 1:
            g += compare(s[p], r2[p], gamma2, beta2, rho2, kappa2, of2_i, of2_j, height, width, rows, columns, T2, first, Scales, at + 1,
                         APART2, TEACH, SCALES)  # fmt: skip
        write(G + first, g, width, columns)
