"""How rows come to where they are compared, and how sums of them come home: gathered, or passed round a ring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrdist.ranks import Ranks
from mrdist.relation.schedule import Block, Layout
from mrdist.relation.tile import times


class Held(NamedTuple):
    """What is here of one rank's rows."""

    features: tuple[Tensor, ...]  # per modality [b, d]
    vectors: Tensor  # [k, b], numbers per row


class Station(NamedTuple):
    """Everything that can meet at one time, by its owner."""

    rows: dict[int, Held]
    columns: dict[int, Held]


class Board:
    """Sums per row of everyone whose rows are here; `home` gives each rank its own, whole.

    Args:
        shape: of one rank's sums.
        columns: whether rows that are only columns here get sums too.
        largest: the largest instead of the sum.
    """

    def __init__(self, layout: Layout, shape: Sequence[int], like: Tensor, *, columns: bool, largest: bool = False) -> None:
        self._layout, self._largest = layout, largest
        start = -torch.inf if largest else 0.0
        self._lines = like.new_full((len(layout.lines), *shape), start)
        beyond = layout.columns if layout.mode != "ring" else layout.columns[:1]
        # Without a second rank every column is one of my rows.
        self._columns = like.new_full((len(beyond), *shape), start) if columns and layout.size > 1 else None
        self._here: tuple[int, ...] = beyond  # whose sums `_columns` holds

    def _of(self, owner: int) -> Tensor:
        if owner in self._layout.lines:
            return self._lines[owner - self._layout.lines[0]]
        assert self._columns is not None
        return self._columns[self._here.index(owner)]

    def add(self, at: Block, sums: slice, values: Tensor) -> None:
        """Join `values [k, n]` to some of the sums of a block's rows; one rank's are [all sums, b]."""
        held = self._of(at.owner)[sums, at.start : at.stop]
        held.copy_(torch.maximum(held, values)) if self._largest else held.add_(values)

    def multiply(self, at: Block, slope: Tensor, columns: Tensor) -> None:
        """Add `slope @ columns` to a block's rows; one rank's are [b, d]."""
        held = self._of(at.owner)[at.start : at.stop]
        if columns.dtype == held.dtype:
            held.addmm_(slope, columns)
        else:
            held.add_(times(slope.to(columns.dtype), columns, held.dtype))

    def expect(self, owner: int) -> None:
        """In a ring: the column sums now are this rank's."""
        self._here = (owner,)

    def pass_on(self, ranks: Ranks) -> None:
        """In a ring: column sums go the way of their rows."""
        if self._columns is not None:
            self._columns = ranks.pass_on(self._columns)()

    def home(self, line: Ranks, file: Ranks) -> Tensor:
        """My own rows' sums, from everyone who had a part in them. Every rank calls."""
        mine = line.scatter(self._lines, largest=self._largest)
        if self._columns is None:
            return mine
        theirs = self._columns[0] if self._layout.mode == "ring" else file.scatter(self._columns, largest=self._largest)
        return torch.maximum(mine, theirs) if self._largest else mine + theirs


class Travel:
    """The rows of one batch, on their way: gathered along my line and my file of the ranks, or round the ring.

    Args:
        features: my rows, per modality [b, d].
    """

    def __init__(self, layout: Layout, ranks: Ranks, features: Sequence[Tensor]) -> None:
        self.layout, self.ranks, self.mine = layout, ranks, tuple(features)
        self.line, self.file = ranks.grid(layout.files)
        if layout.mode != "ring":
            self._rows = [_gathered(self.line, rows) for rows in features]
            self._columns = [_gathered(self.file, rows) for rows in features]

    def stations(self, vectors: Tensor, boards: Sequence[Board] = ()) -> Iterator[Station]:
        """Everything that is to meet here: at once, or rank after rank. Every rank must finish the loop.

        Args:
            vectors: [k, b], numbers of my rows that travel with them.
            boards: sums of columns that travel with them.
        """
        if self.layout.mode == "ring":
            yield from self._round(vectors, boards)
            return
        rows, columns = (_gathered(group, vectors) for group in (self.line, self.file))
        yield Station(
            {owner: Held(tuple(f[k] for f in self._rows), rows[k]) for k, owner in enumerate(self.layout.lines)},
            {owner: Held(tuple(f[k] for f in self._columns), columns[k]) for k, owner in enumerate(self.layout.columns)},
        )

    def _round(self, vectors: Tensor, boards: Sequence[Board]) -> Iterator[Station]:
        mine = Held(self.mine, vectors)
        held, (rank, size) = mine, (self.layout.rank, self.layout.size)
        for by in range(size):
            owner = (rank + by) % size
            # The next rank's rows come while these are compared.
            coming = [self.ranks.pass_on(rows) for rows in (*held.features, held.vectors)] if by < size - 1 else []
            for board in boards:
                board.expect(owner)
            yield Station({rank: mine}, {owner: held})
            for board in boards:
                board.pass_on(self.ranks)
            if coming:
                *features, numbers = (arrived() for arrived in coming)
                held = Held(tuple(features), numbers)


def _gathered(group: Ranks, mine: Tensor) -> Tensor:
    """[size, ...]: the same of everyone in a line or a file."""
    everyone = group.gather(mine.detach()) if mine.numel() else mine.repeat(group.size, 1)
    return everyone.view(group.size, *mine.shape)
