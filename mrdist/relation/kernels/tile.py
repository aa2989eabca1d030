"""One block of rows times one block of columns of the relation loss: its sums and its gradient, without its cosines in memory.

For unit rows X_i, Y_j of the student and U_i, V_j of up to two teachers, s = X_i·Y_j and r = U_i·V_j (reference: Inf-CL, arXiv 2410.17243,
for the idea of tiles; the Jeffrey terms are ours). With one offset for all rows, max(scale − 60, 0): cosines are bounded, so no running
maximum is needed, and sums of tiles, blocks and ranks are added as they are.

    contrast     x = e^(α s − offset)        neg = Σ x     moment = Σ x s     beaten = #{s > own + tie}, of rows     j ≠ own
    comparison   a = γ s   b = β r   c = a − b   e = e^(a − offset)   q = e^(b − offset)
                 Z_a = Σ e     Z_b = Σ q     U_a = Σ e c     U_b = Σ q c     V = Σ q b

along rows over the columns that are here, and along columns over the rows that are here. The Jeffrey divergence of a row is
U_a / Z_a − U_b / Z_b. Rows that are not here must be finite and no longer than 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from mrdist.relation.kernels.cut import Cut, cut

T = TypeVar("T")


class Contrast(NamedTuple):
    """A shape's own pair against all others: s at scale α."""

    scale: Tensor | float  # α; a tensor of one number is read on the device: no waiting, no compiling anew
    rows_here: Tensor  # [m] bool, μ_i
    columns_here: Tensor  # [n] bool, μ_j
    own: Tensor  # [m] float32: cosine of each row's shape with its own column, wherever that is
    tie: float  # cosines count as beaten from here on above their own


class Comparison(NamedTuple):
    """A student's relation with one teacher's: a = γ s against b = β r."""

    rows: Tensor  # [m, d], U
    columns: Tensor  # [n, d], V
    student: Tensor | float  # γ
    teacher: Tensor | float  # β
    rows_here: Tensor  # [m] bool, ρ_i
    columns_here: Tensor  # [n] bool, κ_j
    exclude: bool  # whether a shape is left out of its own relation


class Margins(NamedTuple):
    """Some float32 numbers per row and per column."""

    rows: Tensor  # [k, m]
    columns: Tensor  # [k, n]


class Sums(NamedTuple):
    """Margins of the contrast and of each comparison: sums of `sums`, coefficients of `gradient`."""

    contrast: Margins | None
    comparisons: tuple[Margins, ...]


class Want(NamedTuple):
    """What else `gradient` should give."""

    teachers: bool = False
    scales: bool = False
    dtype: torch.dtype | None = None  # of the matrices; None: the operands'


NOTHING_ELSE = Want()


class Gradient(NamedTuple):
    """With respect to cosines; each matrix awaits its product with the other side's rows."""

    student: Tensor  # [m, n], α Ga + Σ_k γ_k Gs_k
    teachers: tuple[Tensor, ...]  # [m, n] each, β_k Gt_k; () if not asked for
    scales: Tensor | None  # [comparisons, 2] float32: Σ Gs_k s = ∂/∂γ_k and Σ Gt_k r = ∂/∂β_k


def sums(
    X: Tensor, Y: Tensor, contrast: Contrast | None, comparisons: tuple[Comparison, ...], *, diagonal: bool, how: Cut | None = None
) -> Sums:
    """The sums above, of one block; the same bits every time.

    Needs 2 bytes of memory per pair for partial sums: blocks of 4,096 x 4,096 keep them in the L2 cache.

    Args:
        X: [m, d] unit rows, bfloat16, float16 or float32 (then no TensorFloat-32); d a multiple of 16.
        Y: [n, d].
        contrast: gives Margins of neg, moment and beaten, [3, m], and of neg and moment, [2, n].
        comparisons: at most two; each gives Margins of Z_a, Z_b, U_a, U_b and V, [5, m] and [5, n].
        diagonal: whether row r and column r of this block are the same shape; then m = n.
        how: the cut of the tiles; None: what suits the device.
    """
    from mrdist.relation.kernels.forward import tile_sums

    how = how or cut(_capability(X), X.dtype, contrast=contrast is not None, teachers=len(comparisons))
    of_rows, of_columns = ([own] * (contrast is not None) + [5] * len(comparisons) for own in (3, 2))
    tiles = _tiles(X, Y, how)
    rows = X.new_empty(tiles[1], tiles[0], how.pieces, sum(of_rows), how.rows, dtype=torch.float32)
    columns = X.new_empty(tiles[1], tiles[0], sum(of_columns), how.columns, dtype=torch.float32)
    given = _given(X, Y, contrast, comparisons, diagonal, how) | dict.fromkeys(("own_i", "tie"))
    if contrast:
        given |= {"own_i": _whole(contrast.own.float(), how.rows), "tie": contrast.tie}
    tile_sums[tiles](**given, Rows=rows, Columns=columns)
    by_rows = rows.sum((0, 2)).transpose(0, 1).flatten(1)[:, : len(X)]
    by_columns = columns.sum(1).transpose(0, 1).flatten(1)[:, : len(Y)]
    margins = [Margins(*pair) for pair in zip(torch.split(by_rows, of_rows), torch.split(by_columns, of_columns), strict=True)]
    return Sums(margins.pop(0) if contrast else None, tuple(margins))


def gradient(
    X: Tensor,
    Y: Tensor,
    contrast: Contrast | None,
    comparisons: tuple[Comparison, ...],
    coefficients: Sums,
    *,
    diagonal: bool,
    want: Want = NOTHING_ELSE,
    how: Cut | None = None,
) -> Gradient:
    """Gradient of the same block with respect to its cosines, given what the sums of the whole batch became; the same bits every time.

    With each coefficient that of the row plus that of the column, and 0 where a row or a column is not here:

        Ga = x (h_i + h_j),   but −(g_i + g_j) on the diagonal, here or not
        Gs = e [(1 + c)(A_i + A_j) − (K_i + K_j)] − q (B_i + B_j)
        Gt = q [(1 − c)(B_i + B_j) + (L_i + L_j)] − e (A_i + A_j)

    A row (or column) of weight w in the loss has, for its contrast, h = w / (neg + e^(α own − offset)) and g = neg h; for the Jeffrey
    divergence of its comparison, A = w / Z_a, K = w U_a / Z_a², B = w / Z_b and L = w U_b / Z_b².

    Args:
        coefficients: of the contrast h and g, [2, m] and [2, n]; of each comparison A, K, B and L, [4, m] and [4, n]. L matters only to Gt.
        want: what to give besides the student's matrix.

    The others are those of `sums`.
    """
    from mrdist.relation.kernels.backward import tile_gradient

    more = want.teachers or want.scales
    how = how or cut(_capability(X), X.dtype, contrast=contrast is not None, teachers=len(comparisons), gradient=True, more=more)
    tiles = _tiles(X, Y, how)
    # Whole tiles, of which the block is a corner: nothing to mask, and every row begins where wide stores may.
    height, width = tiles[0] * how.rows, tiles[1] * how.columns
    matrices = [X.new_empty(height, width, dtype=want.dtype) for _ in range(1 + want.teachers * len(comparisons))]
    scales = X.new_empty(tiles[0] * tiles[1] * how.pieces, len(comparisons), 2, dtype=torch.float32) if want.scales else None
    given = _given(X, Y, contrast, comparisons, diagonal, how)
    first, second = _two(coefficients.comparisons)
    for k, margins in (("", coefficients.contrast), ("1", first), ("2", second)):
        given[f"of{k}_i"] = None if margins is None else _whole(margins.rows.float(), how.rows)
        given[f"of{k}_j"] = None if margins is None else _whole(margins.columns.float(), how.columns)
    given |= dict(zip(("G", "T1", "T2"), [*matrices, None, None], strict=False))
    tile_gradient[tiles](**given, Scales=scales, height=height, width=width, TEACH=want.teachers, SCALES=want.scales)
    student, *teachers = (matrix[: len(X), : len(Y)] for matrix in matrices)
    return Gradient(student, tuple(teachers), None if scales is None else scales.sum(0))


def _capability(X: Tensor) -> tuple[int, int]:
    return torch.cuda.get_device_capability(X.device) if X.is_cuda else (8, 0)


def _tiles(X: Tensor, Y: Tensor, how: Cut) -> tuple[int, int]:
    return -(-len(X) // how.rows), -(-len(Y) // how.columns)


def _given(
    X: Tensor, Y: Tensor, contrast: Contrast | None, comparisons: tuple[Comparison, ...], diagonal: bool, how: Cut
) -> dict[str, Any]:
    """What both kernels take. None stands for what a kernel does not read: Triton compiles it away."""
    first, second = _two(comparisons)
    given: dict[str, Any] = {"m": len(X), "n": len(Y), "X": _operand(X, how.rows, how), "Y": _operand(Y, how.columns, how)}
    given |= dict.fromkeys(("alpha", "mu_i", "mu_j"))
    if contrast:
        given |= {"alpha": _number(contrast.scale, X)}
        given |= {"mu_i": _whole(contrast.rows_here, how.rows), "mu_j": _whole(contrast.columns_here, how.columns)}
    for k, of in (("1", first), ("2", second)):
        given |= dict.fromkeys(f"{name}{k}" for name in ("U", "V", "gamma", "beta", "rho", "kappa"))
        given[f"APART{k}"] = of is not None and of.exclude and diagonal
        if of:
            given |= {f"U{k}": _operand(of.rows, how.rows, how), f"V{k}": _operand(of.columns, how.columns, how)}
            given |= {f"gamma{k}": _number(of.student, X), f"beta{k}": _number(of.teacher, X)}
            given |= {f"rho{k}": _whole(of.rows_here, how.rows), f"kappa{k}": _whole(of.columns_here, how.columns)}
    return given | {
        "D": X.shape[1],
        "CONTRAST": contrast is not None,
        "TEACHERS": len(comparisons),
        "SHARED": first is not None and first.columns.data_ptr() == Y.data_ptr() and first.columns.stride() == Y.stride(),
        "DIAGONAL": diagonal,
        "TALL": how.rows,
        "WIDE": how.columns,
        "P": how.pieces,
        "DEPTH": how.depth,
        "DESCRIPTORS": how.descriptors,
        "num_warps": how.warps,
        "num_stages": how.stages,
        "enable_fp_fusion": True,
    }


def _two(things: tuple[T, ...]) -> tuple[T | None, T | None]:
    return things[0] if things else None, things[1] if len(things) > 1 else None


def _whole(vectors: Tensor, side: int) -> Tensor:
    """`[..., k]` with zeros at the end up to a multiple of a tile's side."""
    missing = -vectors.shape[-1] % side
    return torch.nn.functional.pad(vectors, (0, missing)) if missing else vectors.contiguous()


def _number(value: Tensor | float, like: Tensor) -> Tensor:
    """On the device, float32; a number is written there by a kernel: a copy would wait."""
    if isinstance(value, Tensor):
        return value.detach().to(like.device, torch.float32)
    return torch.full((), value, dtype=torch.float32, device=like.device)


def _operand(rows: Tensor, side: int, how: Cut) -> Any:
    rows = rows.detach().contiguous()
    if not how.descriptors:
        return rows
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(rows, [side, how.depth])
