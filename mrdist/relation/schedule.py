"""Which rank compares which rows with which columns: row, pair, ring and grid.

N rows of W ranks, b = N / W each, compared in blocks. Every ordered pair of rows is met exactly once among all ranks:

    row     a rank takes its own rows against everyone's columns. No gradient ever travels: what a row needs from others are features and
            a few numbers per row.
    pair    a rank takes unordered pairs of blocks, (i, j) with (j, i), so that the Gram matrices of points, images and texts are
            computed once: 4.5 + 7.5 instead of 7 + 10 products. Costs one reduce-scatter of the gradient.
    ring    row, with the columns passed round the ranks instead of gathered: three ranks' features lie in memory at a time.
    grid    ranks stand in a rectangle; a rank takes its line's rows against its file's columns: features of about 2 √W ranks in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from mrdist.errors import RecipeError

MODES = ("row", "pair", "ring", "grid")

PAIR_PAYS = 2048
"""Rows per rank from which `pair` saves more arithmetic than its reduce-scatter costs: 4 F / (10 · B), at F = 400 Tflop/s, B = 80 GB/s."""

RESIDENT = 8 << 30
"""Bytes of gathered features from which `auto` prefers a grid, and of a grid's from which it prefers the ring."""


class Block(NamedTuple):
    """Consecutive rows of one rank."""

    owner: int
    start: int
    stop: int


class Meeting(NamedTuple):
    """Rows `i` against columns `j`; `both` if rows `j` against columns `i` are meant as well."""

    i: Block
    j: Block
    both: bool

    @property
    def diagonal(self) -> bool:
        """Whether rows and columns are the same shapes."""
        return self.i == self.j


class Mode(NamedTuple):
    """A way to share the work, and why it was chosen."""

    name: str
    files: int  # how many files of ranks stand beside one another: 1 but in a grid
    why: str


@dataclass(frozen=True)
class Layout:
    """One rank's place: whose rows and whose columns meet here."""

    mode: str
    rank: int
    size: int
    files: int = 1

    @property
    def lines(self) -> tuple[int, ...]:
        """The ranks whose rows are compared here."""
        first = self.rank // self.files * self.files
        return tuple(range(first, first + self.files))

    @property
    def columns(self) -> tuple[int, ...]:
        """The ranks whose rows are columns here."""
        return tuple(range(self.rank % self.files, self.size, self.files))

    def meetings(self, rows: int, block: int, columns: Sequence[int]) -> Iterator[Meeting]:
        """What meets here of the `columns` given, in blocks of at most `block` of the `rows` of each rank."""
        for theirs in columns:
            for j in blocks(theirs, rows, block):
                for mine in self.lines:
                    for i in blocks(mine, rows, block):
                        both = self._both(i, j, block)
                        if both is not None:
                            yield Meeting(i, j, both)

    def _both(self, i: Block, j: Block, block: int) -> bool | None:
        """Whether (i, j) brings (j, i) along; None if another meeting, or another rank, sees to it."""
        if i == j:
            return False
        if i.owner in self.columns and j.owner in self.lines:
            return True if i < j else None
        if self.mode != "pair":
            return False
        ahead = (j.owner - self.rank) % self.size
        if 2 * ahead == self.size:
            # Of two opposite ranks each takes the same half: the colours of a chessboard.
            return True if ((i.start // block + j.start // block) % 2 == 0) == (i.owner < j.owner) else None
        return True if 2 * ahead < self.size else None


@lru_cache
def blocks(owner: int, rows: int, block: int) -> tuple[Block, ...]:
    """A rank's rows cut into equal blocks, as far as possible."""
    return tuple(Block(owner, start, min(start + block, rows)) for start in range(0, rows, block))


def even(rows: int, block: int) -> int:
    """The block length, at most `block`, that cuts `rows` into parts of about one length."""
    return math.ceil(rows / math.ceil(rows / max(block, 1)))


def check_mode(mode: str) -> None:
    """Refuse an unknown mode.

    Raises:
        RecipeError: it is neither auto nor one of MODES.
    """
    if mode not in ("auto", *MODES):
        raise RecipeError(what="relation mode", got=repr(mode), wanted=f"auto or one of {', '.join(MODES)}", try_="mode=auto")


def choose(mode: str, *, rows: int, width: int, bytes_each: int, size: int) -> Mode:
    """The mode to use, and why.

    Args:
        mode: auto, or one of MODES, which is then kept.
        rows: b, of one rank.
        width: d, of an embedding.
        bytes_each: of one number of a feature as it is gathered.
        size: W, the number of ranks.

    Raises:
        RecipeError: an unknown mode.
    """
    check_mode(mode)
    # The most even rectangle; a prime number of ranks stands in one line.
    files = max((f for f in range(2, math.isqrt(size) + 1) if size % f == 0), default=size)
    if mode != "auto":
        return Mode(mode, files if mode == "grid" else 1, "as asked")
    gathered = 3 * size * rows * width * bytes_each
    if size == 1:
        return Mode("row", 1, "one rank: nothing travels")
    if gathered > RESIDENT:
        of_grid = gathered * (files + size // files) // size
        if of_grid <= RESIDENT:
            return Mode(
                "grid", files, f"gathered features would take {_gib(gathered)}, a grid of {size // files} x {files} {_gib(of_grid)}"
            )
        return Mode("ring", 1, f"gathered features would take {_gib(gathered)}, in a grid still {_gib(of_grid)}")
    if rows >= PAIR_PAYS:
        return Mode("pair", 1, f"{rows} rows per rank: saved products outweigh one reduce-scatter")
    return Mode("row", 1, f"{rows} rows per rank: fewer than {PAIR_PAYS}, where sending gradients begins to pay")


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
