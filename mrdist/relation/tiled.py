"""The terms and their gradients, streamed: no tensor of local x global batch exists at any time, on any number of ranks.

Forward adds up a few sums per row, tile by tile; backward computes each tile's cosines again, turns them into the gradient of the loss
by those cosines, G, and adds G @ columns to the gradient of the rows. What a row's gradient needs from others are their features and a
few coefficients, so that each rank writes its own rows' whole gradient and none travels (but in `pair` and `grid`, see `schedule`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mrdist.errors import RecipeError
from mrdist.relation.field import Field, Visit, slices
from mrdist.relation.term import Wanted
from mrdist.relation.tile import Product
from mrdist.relation.travel import Board


class Streamed(torch.autograd.Function):
    """A field, its scalars (0-dim or [1] each) and features ([b, d] each) -> terms [K] and figures [F], in order, all global."""

    @staticmethod
    def forward(ctx: Any, field: Field, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        sweep(field)
        values, figures, lost = field.outcome()
        if lost:
            field.restart([term.careful() for term in field.problem.terms])
            sweep(field)
            values, figures, _ = field.outcome()
        ctx.field = field
        ctx.save_for_backward(*inputs, *field.strange())  # so that torch notices if somebody changes them
        ctx.mark_non_differentiable(figures)
        return values, figures

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RecipeError(
                what="relation terms",
                got="a second derivative",
                wanted="first derivatives only",
                try_="create_graph=False, or mrdist.relation.definition",
            )
        needed, scalars = ctx.needs_input_grad[1:], ctx.field.problem.scalars
        inputs = ctx.saved_tensors[: len(needed)]
        places = [k for k, wanted in enumerate(needed) if wanted]
        wanted = Wanted(frozenset(k - scalars for k in places if k >= scalars), frozenset(k for k in places if k < scalars))
        by_scalar, by_row = gradient(ctx.field, upstream.double(), wanted)
        found = {**by_scalar, **{scalars + k: rows for k, rows in by_row.items()}}
        return None, *(found[k].to(like.dtype).view_as(like) if k in found else None for k, like in enumerate(inputs))


def sweep(field: Field) -> None:
    """Add up the sums of every sweep of every term, in `field.sums`. Every rank calls."""
    for n in range(max(len(term.reductions) for term in field.problem.terms)):
        known = [field.term(slot).settled(field.seen(slot)) if n else field.numbers() for slot in field.slots]
        field.sums.append(_swept(field, n, known))


def _swept(field: Field, n: int, known: Sequence[Tensor]) -> list[Tensor]:
    """The sums of one sweep, per slot [k, b], whole."""
    widths = [field.term(slot).width(n, slot.direction) for slot in field.slots]
    kinds = [field.term(slot).reductions[n] if width else "" for slot, width in zip(field.slots, widths, strict=True)]
    places, shape = slices(widths), (sum(widths), len(field.mine[0]))
    boards = {
        kind: Board(field.problem.layout, shape, field.numbers(), columns=True, largest=kind == "max") for kind in sorted(set(kinds) - {""})
    }
    for visit in field.visits(known, list(boards.values())):
        held = [(m, k) for m, k in zip(visit.meant, visit.places, strict=True) if widths[k]]
        tiles = field.problem.backend.sums(visit.tile, [m for m, _ in held], n, both=visit.both)
        for (m, k), added in zip(held, tiles, strict=True):
            boards[kinds[k]].add(visit.i, places[k], added.rows)
            if added.columns is not None and (visit.both or m.term.directions == 2):
                boards[kinds[k]].add(visit.j, places[k + m.term.directions - 1], added.columns)
    home = {kind: board.home(field.travel.line, field.travel.file) for kind, board in boards.items()}
    return [home[kind][place] if kind else field.numbers() for kind, place in zip(kinds, places, strict=True)]


def gradient(field: Field, upstream: Tensor, wanted: Wanted) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """The gradient by scalars (0-dim, whole on every rank) and by my rows ([b, d], times the number of ranks: engines average).

    Args:
        upstream: [K] float64, of the loss by the terms; the same on every rank.
    """
    known, by_scalar = [], {k: upstream.new_zeros(()) for k in wanted.scalars}
    for slot in field.slots:
        term, seen = field.term(slot), field.seen(slot)
        weight = upstream[slot.term] * seen.here / (seen.rows * term.directions)
        known.append(term.coefficients(seen, weight))
        for k, slope in term.scalar_slopes(seen, weight).items():
            by_scalar[k] = by_scalar.get(k, 0) + slope
    layout = field.problem.layout
    boards = {k: Board(layout, field.mine[k].shape, field.scalars[0], columns=layout.mode == "pair") for k in wanted.modalities}
    back = any(y in wanted.modalities for term in field.problem.terms for x, y in term.products if x != y)
    for visit in field.visits(known, back=back):
        slopes = field.problem.backend.slopes(visit.tile, visit.meant, wanted)
        for k, slope in slopes.scalars.items():
            by_scalar[k] += slope
        for product, slope in slopes.cosines.items():
            _add(boards, visit, product, slope)
    whole = field.problem.ranks.total(torch.stack(list(by_scalar.values()))) if by_scalar else ()
    rows = {k: board.home(field.travel.line, field.travel.file) for k, board in boards.items()}
    for k, slope in field.untiled(known).items():
        if k in rows:
            rows[k] += slope
    rows = {k: slope.mul_(layout.size) for k, slope in rows.items()}
    return dict(zip(by_scalar, whole, strict=True)), rows


def _add(boards: dict[int, Board], visit: Visit, product: Product, slope: Tensor) -> None:
    """Take a tile's ∂ loss / ∂ cosines to the rows and columns that nobody else brings it to."""
    x, y = product
    to_rows, to_columns = (True, visit.both) if x == y else visit.takes
    if x in boards and to_rows:
        boards[x].multiply(visit.i, slope, visit.tile.columns.features[y])
    if y in boards and to_columns:
        boards[y].multiply(visit.j, slope.T, visit.tile.rows.features[x])
