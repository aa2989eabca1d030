"""A batch while it is compared: what its rows know, and the tiles at which they meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial, reduce
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from mrdist.ranks import Ranks
from mrdist.relation.bodies import Backend, Meant
from mrdist.relation.schedule import Block, Layout, blocks
from mrdist.relation.term import Seen, Term
from mrdist.relation.tile import Product, Side, Tile
from mrdist.relation.travel import Board, Held, Travel

NOBODY = -1
"""The owner of columns that are no rows of this batch: they get no sums and no gradient."""


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
    operands: torch.dtype  # what features are rounded to before they travel and are multiplied
    queue: Side | None = None  # more columns within each modality, the same on every rank (`queue`)


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
        self.wide = features[0].dtype  # of cosines, and all that follows of them in a tile
        self.scalars = tuple(s.detach().reshape(()).to(self.wide) for s in scalars)
        self.mine = tuple(rows.detach().to(problem.operands) for rows in features)
        self.travel = Travel(problem.layout, problem.ranks, self.mine)
        self.slots = [Slot(t, d) for t, term in enumerate(problem.terms) for d in range(term.directions)]
        self.sums: list[list[Tensor]] = []  # per sweep, per slot: [k, b] float64
        asked = dict.fromkeys(product for term in problem.terms for product in term.own)
        self._own = {product: self._products(self.mine, product) for product in asked}
        self.queue = None if problem.queue is None else self._completed(problem.queue)

    def _completed(self, queue: Side) -> Side:
        """A queue with all that tiles ask of columns."""
        own = {product: self._products(queue.features, product).to(self.wide) for product in self._own}
        # Tiles mask both their sides or none.
        flags = None if queue.flags is None or self.problem.flags is None else queue.flags.to(self.wide)
        return Side(queue.features, flags, own)

    def restart(self, terms: Sequence[Term]) -> None:
        """Begin again with other forms of the same terms."""
        self.problem, self.sums = self.problem._replace(terms=tuple(terms)), []

    def term(self, slot: Slot) -> Term:
        """The term of a slot."""
        return self.problem.terms[slot.term]

    def numbers(self) -> Tensor:
        """An empty [0, b] in float64: how sums are held."""
        return self.mine[0].new_empty(0, len(self.mine[0]), dtype=torch.float64)

    def _products(self, features: Sequence[Tensor], product: Product) -> Tensor:
        """[b], added up in float64: each row's two modalities multiplied, some rows at a time."""
        x, y = (features[k] for k in product)
        parts = [slice(p.start, p.stop) for p in blocks(0, len(x), self.problem.block)]
        return torch.cat([(x[p].to(self.wide) * y[p].to(self.wide)).sum(-1, dtype=torch.float64) for p in parts])

    def seen(self, slot: Slot) -> Seen:
        """What my rows know so far, in one direction of one term."""
        term, flags, counts = self.term(slot), self.problem.flags, self.problem.counts[slot.term]
        here = counts.new_ones(len(self.mine[0])) if flags is None else flags[list(term.needs(slot.direction))].prod(0).double()
        place, columns = self.slots.index(slot), counts[1 - slot.direction] - int(term.excludes_own)
        if self.queue is not None and term.symmetric:
            columns = columns + _count(self.queue, term.columns)
        return Seen(
            sums=tuple(sweep[place] for sweep in self.sums),
            scalars=tuple(s.double() for s in self.scalars),
            own=self._own.get(term.student, torch.zeros_like(here)),
            here=here,
            rows=counts[slot.direction].clamp(min=1),
            columns=columns.clamp(min=0),
            average=columns.new_zeros(()),
            ranks=self.problem.ranks,
        )

    def outcome(self) -> tuple[Tensor, Tensor, Tensor]:
        """Terms [K], figures [F] slot by slot, and how many rows lost a sum; global. Every rank calls."""
        values = [self.problem.counts.new_zeros(()) for _ in self.problem.terms]
        figures, lost, cosines = [], [values[0]], self._cosines()
        for slot in self.slots:
            term, seen = self.term(slot), self.seen(slot)
            rows = term.costs(seen._replace(average=cosines.get(slot.term, seen.average) / (seen.rows * seen.columns)))
            values[slot.term] = values[slot.term] + seen.mean(rows.cost) / term.directions
            figures += [seen.mean(rows.figures[name]) for name in term.figures(slot.direction)]
            lost.append((rows.lost * seen.here).sum())
        whole = self.problem.ranks.total(torch.stack([*values, *figures, torch.stack(lost).sum()]))
        return whole[: len(values)].to(self.wide), whole[len(values) : -1].to(self.wide), whole[-1]

    def _cosines(self) -> dict[int, Tensor]:
        """By term: the sum over all pairs of the cosines that it wants averaged, 0-dim: Σ_i x_i · Σ_j y_j. Every rank calls."""
        asked = {t: (term, *term.averaged) for t, term in enumerate(self.problem.terms) if term.averaged}
        if not asked:
            return {}
        mine, theirs = Side(self.mine, self.problem.flags, {}), self.columns()
        rows = {(0, term.rows, x): self._added(mine, term.rows, x) for term, x, _ in asked.values()}
        columns = {(1, term.columns, y): self._added(theirs, term.columns, y) for term, _, y in asked.values()}
        own = torch.stack([self._added(mine, term.rows, x, y).sum() * term.excludes_own for term, x, y in asked.values()])
        held = self.problem.ranks.total(torch.cat([*rows.values(), *columns.values(), own]))
        whole = dict(zip((*rows, *columns), held[: -len(own)].view(len(rows) + len(columns), -1), strict=True))
        sums = {}
        for (t, (term, x, y)), less in zip(asked.items(), held[-len(own) :], strict=True):
            beyond = self._added(self.queue, term.columns, y) if self.queue is not None and term.symmetric else 0.0
            sums[t] = (whole[0, term.rows, x] * (whole[1, term.columns, y] + beyond)).sum() - less
        return sums

    def _added(self, side: Side, needs: Sequence[int], *modalities: int) -> Tensor:
        """[d], some rows at a time: the sum of a modality's rows, or of products of two number by number, that have all of `needs`."""
        here, whole = side.has(needs), self.numbers().new_zeros(side.features[0].shape[1])
        for p in blocks(NOBODY, len(side.features[0]), self.problem.block):
            part = slice(p.start, p.stop)
            rows = reduce(torch.mul, (side.features[k][part].to(self.wide) for k in modalities))
            whole += rows.sum(0) if here is None else here[part].to(self.wide) @ rows
        return whole

    def visits(self, known: Sequence[Tensor], boards: Sequence[Board] = (), *, back: bool = False) -> Iterator[Visit]:
        """Every tile that is this rank's to compute. Every rank must finish the loop.

        Args:
            known: per slot [k, b], numbers of my rows that travel with them.
            boards: sums of columns that travel with them.
            back: also the mirrors of tiles of which (j, i) is another rank's, for gradients of modalities that are columns alone.
        """
        vectors, places = self.packed(known)
        for station in self.travel.stations(vectors, boards):
            side = cache(partial(self.side, station.columns | station.rows, places))
            for i, j, both in self.problem.layout.meetings(len(self.mine[0]), self.problem.block, tuple(station.columns)):
                (rows, here), (columns, there) = side(i), side(j)
                alone = not both and i != j
                apart = 1 - torch.eye(i.stop - i.start, dtype=self.wide, device=self.mine[0].device) if i == j else None
                tile = Tile(rows, columns, self.scalars, apart=apart, counted=(1.0, 1.0 if both else 0.5))
                yield self._visit(tile, i, j, here, there, both=both, takes=(True, not alone), mirror=False)
                if both or (alone and back):
                    tile = tile.mirrored(counted=(0.0 if alone else 1.0, 0.0))
                    yield self._visit(tile, j, i, there, here, both=both, takes=(not alone, True), mirror=True)
        yield from self._visits_of_queue(vectors, places)

    def _visits_of_queue(self, vectors: Tensor, places: Sequence[slice]) -> Iterator[Visit]:
        """My rows against all of the queue, in whatever mode the rest is: nothing has to travel."""
        within = tuple(k for k, slot in enumerate(self.slots) if self.term(slot).symmetric)
        if self.queue is None or not within:
            return
        side = cache(partial(self.side, {self.problem.ranks.rank: Held(self.mine, vectors)}, places))
        for j in blocks(NOBODY, len(self.queue.features[0]), self.problem.block):
            columns = _part(self.queue, slice(j.start, j.stop))
            for i in blocks(self.problem.ranks.rank, len(self.mine[0]), self.problem.block):
                rows, here = side(i)
                meant = tuple(Meant(self.term(self.slots[k]), here[k], nothing(here[k], j)) for k in within)
                yield Visit(Tile(rows, columns, self.scalars), i, j, meant, within, both=False, takes=(True, False))

    def columns(self) -> Side:
        """This rank's part of the columns, without a queue's."""
        return Side(self.mine, self.problem.flags, {})

    def strange(self) -> tuple[Tensor, ...]:
        """Features of columns that are no rows."""
        return () if self.queue is None else self.queue.features

    def untiled(self, coefficients: Sequence[Tensor]) -> dict[int, Tensor]:
        """By modality: what pairs that are in no tile add to my rows' gradient, [b, d]; `coefficients` are per slot."""
        return {}

    def packed(self, known: Sequence[Tensor]) -> tuple[Tensor, list[slice]]:
        """What travels with my rows, [k, b]: flags, products, and numbers by slot; and where each lies."""
        flags = () if self.problem.flags is None else self.problem.flags
        carried = [torch.stack([*flags, *self._own.values()])] if len(flags) or self._own else []
        return torch.cat([*carried, *known]).to(self.wide), slices([len(flags), len(self._own), *(len(k) for k in known)])

    def side(self, held: Mapping[int, Held], places: Sequence[slice], at: Block) -> tuple[Side, list[Tensor]]:
        """A block of somebody's rows, and their numbers by slot."""
        vectors = held[at.owner].vectors[:, at.start : at.stop]
        flags, own, *known = (vectors[place] for place in places)
        features = tuple(rows[at.start : at.stop] for rows in held[at.owner].features)
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


def _part(side: Side, which: slice) -> Side:
    """Some of its rows."""
    flags = None if side.flags is None else side.flags[:, which]
    return Side(tuple(f[which] for f in side.features), flags, {product: own[which] for product, own in side.own.items()})


def _count(side: Side, modalities: Sequence[int]) -> Tensor | int:
    """How many have all of these."""
    here = side.has(modalities)
    return len(side.features[0]) if here is None else here.sum(dtype=torch.float64)


def nothing(of_rows: Tensor, columns: Block) -> Tensor:
    """[k, n], what is known of columns that are no rows, where [k, m] is known `of_rows`."""
    return of_rows.new_zeros(len(of_rows), columns.stop - columns.start)


def slices(widths: Sequence[int]) -> list[slice]:
    """Where each of several things of these widths lies, one after another."""
    return [slice(start, stop) for start, stop in pairwise(accumulate(widths, initial=0))]
