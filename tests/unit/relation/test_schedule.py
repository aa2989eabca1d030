"""Who meets whom: everybody everybody, once, whatever the mode; and how a mode is chosen."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from mrdist.errors import RecipeError
from mrdist.relation import terms
from mrdist.relation.schedule import MODES, PAIR_PAYS, RESIDENT, Block, Layout, Meeting, blocks, choose, even

SIZES = range(1, 9)


def layouts(mode: str, size: int) -> list[Layout]:
    files = choose(mode, rows=1, width=1, bytes_each=4, size=size).files
    return [Layout(mode, rank, size, files) for rank in range(size)]


def met(layout: Layout, rows: int, block: int) -> Iterator[Meeting]:
    """Everything that one rank computes; in a ring, columns come one rank after another."""
    for columns in [(owner,) for owner in layout.columns] if layout.mode == "ring" else [layout.columns]:
        yield from layout.meetings(rows, block, columns)


def pairs(i: Block, j: Block) -> Iterator[tuple[int, int, int, int]]:
    """Ordered pairs of shapes, each by its owner and its row there."""
    return ((i.owner, x, j.owner, y) for x in range(i.start, i.stop) for y in range(j.start, j.stop))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_every_row_meets_every_column_exactly_once(mode: str, size: int) -> None:
    for rows, block in ((1, 1), (5, 5), (5, 2), (6, 4), (3, 8)):
        held: Counter[tuple[int, int, int, int]] = Counter()
        for layout in layouts(mode, size):
            for meeting in met(layout, rows, block):
                held.update(pairs(meeting.i, meeting.j))
                if meeting.both:
                    held.update(pairs(meeting.j, meeting.i))
        assert len(held) == (size * rows) ** 2
        assert set(held.values()) == {1}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_a_rank_touches_only_rows_that_are_here(mode: str, size: int) -> None:
    for layout in layouts(mode, size):
        for meeting in met(layout, 5, 2):
            assert meeting.i.owner in layout.lines
            assert meeting.j.owner in layout.columns
            assert meeting.diagonal == (meeting.i == meeting.j)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["row", "ring"])
def test_in_a_row_and_in_a_ring_a_rank_takes_its_own_rows_alone(mode: str, size: int) -> None:
    """So no gradient has to travel."""
    assert all(layout.lines == (layout.rank,) for layout in layouts(mode, size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("rows", "block"), [(1, 1), (12, 4), (7, 3), (7, 2)])
def test_pair_mode_computes_each_tile_once_and_shares_them_evenly(size: int, rows: int, block: int) -> None:
    counts = [sum(1 for _ in met(layout, rows, block)) for layout in layouts("pair", size)]
    tiles = size * len(blocks(0, rows, block))
    assert sum(counts) == tiles * (tiles + 1) // 2
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("size", "around"), [(4, (2, 2)), (6, (2, 3)), (8, (2, 4)), (7, (7, 1))])
def test_a_grid_holds_about_two_roots_of_the_ranks(size: int, around: tuple[int, int]) -> None:
    assert all((len(layout.lines), len(layout.columns)) == around for layout in layouts("grid", size))


def test_blocks_are_as_even_as_they_can_be() -> None:
    assert even(1000, 512) == 500
    assert even(512, 512) == 512
    assert even(3, 100) == 3
    assert blocks(2, 7, 3) == (Block(2, 0, 3), Block(2, 3, 6), Block(2, 6, 7))


def test_auto_chooses_by_what_it_saves_and_what_it_holds() -> None:
    def chosen(*, rows: int, size: int, width: int = 512) -> str:
        return choose("auto", rows=rows, width=width, bytes_each=2, size=size).name

    fits = RESIDENT // (3 * 2 * 512)  # rows of all ranks that may lie gathered
    assert chosen(rows=PAIR_PAYS, size=1) == "row"
    assert chosen(rows=PAIR_PAYS - 1, size=8) == "row"
    assert chosen(rows=PAIR_PAYS, size=8) == "pair"
    assert chosen(rows=fits // 16, size=16) == "pair"
    assert chosen(rows=fits // 16 + 1, size=16) == "grid"
    assert chosen(rows=fits // 8 + 1, size=16) == "ring"
    assert chosen(rows=fits // 7 + 1, size=7) == "ring", "a grid of 7 ranks is one line: nothing is saved"


def test_what_was_asked_for_is_kept_and_every_choice_has_a_reason() -> None:
    asked = [choose(mode, rows=4, width=2, bytes_each=4, size=6) for mode in MODES]
    assert [(mode.name, mode.files) for mode in asked] == [("row", 1), ("pair", 1), ("ring", 1), ("grid", 2)]
    assert {mode.why for mode in asked} == {"as asked"}
    for size, reason in ((16, "12.0 GiB, a grid of 4 x 4 6.0 GiB"), (64, "48.0 GiB, in a grid still 12.0 GiB"), (2, "saved products")):
        assert reason in choose("auto", rows=2**18, width=512, bytes_each=2, size=size).why


def test_what_was_chosen_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    terms._say.cache_clear()
    with caplog.at_level(logging.INFO, logger="mrdist.relation"):
        for _ in range(3):
            terms.relation_terms(torch.eye(5), torch.eye(5), scale=1.0)
    assert [record.getMessage() for record in caplog.records] == ["relations of 5 rows on 1 ranks: mode row (one rank: nothing travels)"]


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(RecipeError) as error:
        choose("star", rows=4, width=2, bytes_each=4, size=2)
    said = error.value
    assert (said.what, said.got, said.wanted, said.try_) == ("relation mode", "'star'", "auto or one of row, pair, ring, grid", "mode=auto")
