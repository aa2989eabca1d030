"""A batch while it is compared: what its rows know, and the tiles at which they meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from mrdist.ranks import Ranks
from mrdist.relation.bodies import Backend, Meant
from mrdist.relation.schedule import Block, Layout, blocks
from mrdist.relation.term import Product, Seen, Side, Term, Tile
from mrdist.relation.travel import Board, Held, Travel


class Problem(NamedTuple):
    """What stays the same while a batch is compared."""

    terms: tuple[Term, ...]
    layout: Layout
    ranks: Ranks
    block: int  # rows and columns of a tile
    backend: Backend
    flags: Tensor | None  # [modalities, b]: 1 where a row has that modality; None where everyone has everything
    counts: Tensor  # [terms, 2] float64: rows that count in each direction, on all ranks
    scalars: int  # how many of the inputs are scalars; the others are features


class Slot(NamedTuple):
    """One direction of one term: 0 for rows, 1 for columns."""

    term: int
    direction: int


class Visit(NamedTuple):
    """A tile at work: block `i` of rows against block `j` of columns."""

    tile: Tile
    i: Block
    j: Block
    meant: tuple[Meant, ...]
    places: tuple[int, ...]  # of each meant term's rows among the slots
    both: bool  # whether columns against rows are this rank's as well: within a modality here, else by a mirror
    takes: tuple[bool, bool]  # whether gradients between modalities reach the rows, and the columns


class Field:
    """One batch, from the first sweep to the gradient."""

    def __init__(self, problem: Problem, scalars: Sequence[Tensor], features: Sequence[Tensor]) -> None:
        self.problem = problem
        self.wide = torch.promote_types(features[0].dtype, torch.float32)
        self.scalars = tuple(s.detach().reshape(()).to(self.wide) for s in scalars)
        self.mine = tuple(rows.detach() for rows in features)
        self.travel = Travel(problem.layout, problem.ranks, self.mine)
        self.slots = [Slot(t, d) for t, term in enumerate(problem.terms) for d in range(term.directions)]
        self.sums: list[list[Tensor]] = []  # per sweep, per slot: [k, b] float64
        self._own = {product: self._products(product) for product in dict.fromkeys(p for term in problem.terms for p in term.own)}

    def restart(self, terms: Sequence[Term]) -> None:
        """Begin again with other forms of the same terms."""
        self.problem, self.sums = self.problem._replace(terms=tuple(terms)), []

    def term(self, slot: Slot) -> Term:
        """The term of a slot."""
        return self.problem.terms[slot.term]

    def numbers(self) -> Tensor:
        """An empty [0, b] in float64: how sums are held."""
        return self.mine[0].new_empty(0, len(self.mine[0]), dtype=torch.float64)

    def _products(self, product: Product) -> Tensor:
        """[b] float64: each row's two modalities multiplied, some rows at a time."""
        x, y = product
        parts = blocks(0, len(self.mine[x]), self.problem.block)
        return torch.cat([(self.mine[x][p.start : p.stop].double() * self.mine[y][p.start : p.stop]).sum(-1) for p in parts])

    def seen(self, slot: Slot) -> Seen:
        """What my rows know so far, in one direction of one term."""
        term, flags, counts = self.term(slot), self.problem.flags, self.problem.counts[slot.term]
        here = counts.new_ones(len(self.mine[0])) if flags is None else flags[list(term.needs(slot.direction))].prod(0).double()
        place = self.slots.index(slot)
        return Seen(
            sums=tuple(sweep[place] for sweep in self.sums),
            scalars=tuple(s.double() for s in self.scalars),
            own=self._own.get(term.student, torch.zeros_like(here)),
            here=here,
            rows=counts[slot.direction].clamp(min=1),
            columns=(counts[1 - slot.direction] - int(term.excludes_own)).clamp(min=0),
            ranks=self.problem.ranks,
        )

    def outcome(self) -> tuple[Tensor, Tensor, Tensor]:
        """Terms [K], figures [F] slot by slot, and how many rows lost a sum; global. Every rank calls."""
        values = [self.problem.counts.new_zeros(()) for _ in self.problem.terms]
        figures, lost = [], [values[0]]
        for slot in self.slots:
            term, seen = self.term(slot), self.seen(slot)
            rows = term.costs(seen)
            values[slot.term] = values[slot.term] + seen.mean(rows.cost) / term.directions
            figures += [seen.mean(rows.figures[name]) for name in term.figures]
            lost.append((rows.lost * seen.here).sum())
        whole = self.problem.ranks.total(torch.stack([*values, *figures, torch.stack(lost).sum()]))
        return whole[: len(values)].to(self.wide), whole[len(values) : -1].to(self.wide), whole[-1]

    def visits(self, known: Sequence[Tensor], boards: Sequence[Board] = (), *, back: bool = False) -> Iterator[Visit]:
        """Every tile that is this rank's to compute. Every rank must finish the loop.

        Args:
            known: per slot [k, b], numbers of my rows that travel with them.
            boards: sums of columns that travel with them.
            back: also the mirrors of tiles of which (j, i) is another rank's, for gradients of modalities that are columns alone.
        """
        flags = () if self.problem.flags is None else self.problem.flags
        carried = [torch.stack([*flags, *self._own.values()])] if len(flags) or self._own else []
        vectors = torch.cat([*carried, *known]).to(self.wide)
        places = slices([len(flags), len(self._own), *(len(k) for k in known)])
        for station in self.travel.stations(vectors, boards):
            for i, j, both in self.problem.layout.meetings(len(self.mine[0]), self.problem.block, tuple(station.columns)):
                rows, here = self._side(station.rows[i.owner], i, places)
                columns, there = self._side(station.columns[j.owner], j, places)
                alone = not both and i != j
                apart = 1 - torch.eye(i.stop - i.start, dtype=self.wide, device=self.mine[0].device) if i == j else None
                tile = Tile(rows, columns, self.scalars, apart=apart, counted=(1.0, 1.0 if both else 0.5))
                yield self._visit(tile, i, j, here, there, both=both, takes=(True, not alone), mirror=False)
                if both or (alone and back):
                    tile = tile.mirrored(counted=(0.0 if alone else 1.0, 0.0))
                    yield self._visit(tile, j, i, there, here, both=both, takes=(not alone, True), mirror=True)

    def _side(self, held: Held, at: Block, places: Sequence[slice]) -> tuple[Side, list[Tensor]]:
        """A block of somebody's rows, and their numbers by slot."""
        vectors = held.vectors[:, at.start : at.stop]
        flags, own, *known = (vectors[place] for place in places)
        features = tuple(rows[at.start : at.stop] for rows in held.features)
        return Side(features, None if self.problem.flags is None else flags, dict(zip(self._own, own, strict=True))), known

    def _visit(
        self,
        tile: Tile,
        i: Block,
        j: Block,
        here: Sequence[Tensor],
        there: Sequence[Tensor],
        *,
        both: bool,
        takes: tuple[bool, bool],
        mirror: bool,
    ) -> Visit:
        """What is within a modality says everything in one order: its mirrors are empty."""
        places = tuple(k for k, s in enumerate(self.slots) if s.direction == 0 and not (mirror and self.term(s).symmetric))
        terms = [self.term(self.slots[k]) for k in places]
        meant = tuple(Meant(term, here[k], there[k + term.directions - 1]) for k, term in zip(places, terms, strict=True))
        return Visit(tile, i, j, meant, places, both, takes)


def slices(widths: Sequence[int]) -> list[slice]:
    """Where each of several things of these widths lies, one after another."""
    return [slice(start, stop) for start, stop in pairwise(accumulate(widths, initial=0))]
