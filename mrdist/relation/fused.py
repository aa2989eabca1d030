"""Tiles by Triton's kernels: cosines stay in registers, and terms of one product share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import torch
from torch import Tensor

from mrdist.relation.bodies import Backend, Meant
from mrdist.relation.kernels import Comparison, Margins, Want, gradient, sums
from mrdist.relation.kernels import Contrast as Contrasted
from mrdist.relation.kernels import Sums as Given
from mrdist.relation.quick import Contrast, Divergence, Jeffrey
from mrdist.relation.term import Slopes, Sums, Wanted
from mrdist.relation.tile import TIE, Product, Side, Tile

if TYPE_CHECKING:
    from mrdist.relation.kernels import Gradient


class _Sheet(NamedTuple):
    """All that is asked of one product of a tile: places among the meant."""

    contrast: int | None
    comparisons: tuple[int, ...]  # at most two

    @property
    def places(self) -> tuple[int, ...]:
        return (() if self.contrast is None else (self.contrast,)) + self.comparisons


class Fused(Backend):
    """Contrast and Jeffrey in kernels, any other term by the backend that it is given."""

    def __init__(self, others: Backend) -> None:
        self.others = others

    def sums(self, tile: Tile, meant: Sequence[Meant], sweep: int, *, both: bool) -> list[Sums]:
        sheets, rest = _sheets(tile, meant)
        held = dict(zip(rest, self.others.sums(tile, [meant[k] for k in rest], sweep, both=both), strict=True)) if rest else {}
        for (x, y), sheet in sheets.items():
            asked = _asked(tile, meant, sheet)
            given = sums(tile.rows.features[x], tile.columns.features[y], *asked, diagonal=tile.apart is not None)
            for k, margins in zip(sheet.places, _listed(given), strict=True):
                held[k] = Sums(margins.rows, margins.columns if both or meant[k].term.directions == 2 else None)
        return [held[k] for k in range(len(meant))]

    def slopes(self, tile: Tile, meant: Sequence[Meant], wanted: Wanted) -> Slopes:
        sheets, rest = _sheets(tile, meant)
        out = self.others.slopes(tile, [meant[k] for k in rest], wanted) if rest else Slopes({}, {})
        for (x, y), sheet in sheets.items():
            terms = [meant[k].term for k in sheet.comparisons]
            places = [place for term in terms if _compares(term) for place in (term.student_scale, term.teacher_scale)]
            want = Want(
                teachers=any(wanted.product(term.teacher) for term in terms if _compares(term)),
                scales=not wanted.scalars.isdisjoint(places),
            )
            coefficients = Given(
                None if sheet.contrast is None else _margins(meant[sheet.contrast]), tuple(_margins(meant[k]) for k in sheet.comparisons)
            )
            features = tile.rows.features[x], tile.columns.features[y]
            given = gradient(*features, *_asked(tile, meant, sheet), coefficients, diagonal=tile.apart is not None, want=want)
            self._join(out, tile, (x, y), [t for t in terms if _compares(t)], given, wanted)
        return out

    def _join(self, out: Slopes, tile: Tile, product: Product, terms: Sequence[Divergence], given: Gradient, wanted: Wanted) -> None:
        out.add(product, given.student)
        for k, term in enumerate(terms):
            if given.teachers and wanted.product(term.teacher):
                out.add(term.teacher, given.teachers[k])
            if given.scales is not None:
                for place, moved in zip((term.student_scale, term.teacher_scale), given.scales[k].double(), strict=True):
                    if place in wanted.scalars:
                        out.move(place, moved * tile.counted[term.symmetric])


def _compares(term: object) -> TypeGuard[Divergence]:
    return isinstance(term, Divergence)


def _sheets(tile: Tile, meant: Sequence[Meant]) -> tuple[dict[Product, _Sheet], list[int]]:
    """What kernels compute, by product, and the places of all else."""
    sheets: dict[Product, _Sheet] = {}
    rest = []
    for k, (term, _, _) in enumerate(meant):
        sheet = sheets.get(term.student, _Sheet(None, ()))
        if term.one_way and tile.apart is not None:
            rest.append(k)  # kernels know own pairs on a diagonal only
        elif type(term) is Contrast and sheet.contrast is None:
            sheets[term.student] = sheet._replace(contrast=k)
        elif type(term) is Jeffrey and len(sheet.comparisons) < 2:
            sheets[term.student] = sheet._replace(comparisons=(*sheet.comparisons, k))
        else:
            rest.append(k)
    return sheets, rest


def _asked(tile: Tile, meant: Sequence[Meant], sheet: _Sheet) -> tuple[Contrasted | None, tuple[Comparison, ...]]:
    """The same in the kernels' words."""
    contrast = None
    if sheet.contrast is not None:
        term = meant[sheet.contrast].term
        assert isinstance(term, Contrast)
        contrast = Contrasted(
            tile.scalars[term.scale],
            _here(tile.rows, term.rows),
            _here(tile.columns, term.columns),
            tile.rows.own[term.student],
            TIE * torch.finfo(torch.float32).eps,
        )
    comparisons = []
    for k in sheet.comparisons:
        term = meant[k].term
        assert isinstance(term, Divergence)
        u, v = term.teacher
        comparisons.append(
            Comparison(
                tile.rows.features[u],
                tile.columns.features[v],
                tile.scalars[term.student_scale],
                tile.scalars[term.teacher_scale],
                _here(tile.rows, term.rows),
                _here(tile.columns, term.columns),
                term.excludes_own,
            )
        )
    return contrast, tuple(comparisons)


def _here(side: Side, modalities: Sequence[int]) -> Tensor:
    """[n] bool."""
    has = side.has(modalities)
    return side.features[0].new_ones(len(side.features[0]), dtype=torch.bool) if has is None else has > 0


def _margins(meant: Meant) -> Margins:
    return Margins(meant.rows, meant.columns)


def _listed(given: Given) -> list[Margins]:
    return [*([] if given.contrast is None else [given.contrast]), *given.comparisons]
