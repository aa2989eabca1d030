"""A bank that is shared out, and a queue that everyone has: the same terms and gradients on any number of ranks, in every mode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mrdist.ranks import Ranks
from mrdist.relation.asked import Relations
from mrdist.relation.queue import Queue
from mrdist.relation.schedule import MODES
from mrdist.relation.terms import Terms, Tiling
from mrdist.testing import on_ranks
from tests.unit.relation.plain_bank import banked, filled, plain_bank, plain_queue, queued, whole
from tests.unit.relation.plain_terms import EXACT, Given, astray, drawn, slopes

ROWS, SHAPES, QUEUE = 12, 23, 7  # 23 shapes leave the last rank a shorter part
IMAGE, TEXT = [1, 1, 0, 1, 0, 1, 1, 1, 1, 1, 0, 0], [0, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0, 0]
DIVERGENCES = {"similarity": ("jeffrey", "js"), "distance": ("l1",), "cosine": ("l2",)}
WITHIN = [Relations("both", "none", r, d) for r, ds in DIVERGENCES.items() for d in ds]

Found = list[tuple[str, Tensor, dict[str, Tensor]]]


def batches() -> Iterator[tuple[Given, bool]]:
    """One that lacks things, one that does not; at temperature 0.01 every row looks at one column."""
    yield drawn(ROWS, image=IMAGE, text=TEXT), False
    yield drawn(ROWS, temperatures=(0.01, 0.05, 0.02, 0.01, 0.02), seed=1), True


def whole_again(terms: Terms, given: Given, ranks: Ranks) -> Found:
    """Terms by name, each with its gradient as a data-parallel engine would average it."""
    out: Found = []
    for name, value in zip(terms.names, terms.values, strict=True):
        found = slopes(value, given, keep=True)
        mine = {leaf: ranks.gather(slope) / ranks.size if slope.dim() == 2 else ranks.average(slope) for leaf, slope in found.items()}
        out.append((name, value.detach(), mine))
    return out


def tiling(mode: str) -> Tiling:
    return Tiling(mode=mode, block=4, compile="never")


def said(ranks: Ranks, modes: list[str]) -> Found:
    """Everything that this rank says of a bank, then of a queue in these modes."""
    out: Found = []
    for given, complete in batches():
        mine = given.rows(ranks).learning()
        for divergence in ("jeffrey", "kl"):
            terms = banked(mine, whole(SHAPES, complete=complete), ranks, tiling("auto"), divergence=divergence)
            out += whole_again(terms, mine, ranks)
        for mode in modes:
            for relations in WITHIN:
                terms = queued(mine, relations, filled(given, QUEUE, complete=complete), ranks, tiling(mode))
                out += [held for held in whole_again(terms, mine, ranks) if held[0].startswith("intra")]
    return [(name, value.clone(), {k: v.clone() for k, v in found.items()}) for name, value, found in out]


def wanted(modes: list[str]) -> Found:
    """The same by plain autograd over whole matrices."""
    out: Found = []
    for given, complete in batches():
        held = [plain_bank(given, whole(SHAPES, complete=complete), divergence) for divergence in ("jeffrey", "kl")]
        held += [plain_queue(given, r, filled(given, QUEUE, complete=complete)) for _ in modes for r in WITHIN]
        out += [(name, value.detach(), slopes(value, given, keep=True)) for terms in held for name, value in terms.items()]
    return out


@pytest.mark.parametrize(("size", "modes"), [(2, [*MODES]), (3, ["row", "ring"]), (4, ["grid"])])
def test_terms_and_gradients_are_those_of_one_process_that_sees_all_columns(size: int, modes: list[str]) -> None:
    right = wanted(modes)
    for held in on_ranks(size, said, modes):
        assert [name for name, _, _ in held] == [name for name, _, _ in right]
        for (name, value, found), (_, true, slope) in zip(held, right, strict=True):
            assert astray(value, true) < EXACT, name
            for leaf, by in slope.items():
                assert astray(found[leaf], by) < EXACT, f"{name} by {leaf}"


def filled_together(ranks: Ranks) -> list[Tensor]:
    queue = Queue.empty(QUEUE, 5)
    for seed in range(3):
        mine = drawn(ROWS, image=IMAGE, text=TEXT, seed=seed).rows(ranks)
        queue.push(mine.points, mine.image, mine.text, mine.has_image, mine.has_text, ranks)
    return [held.clone() for held in queue]


def test_a_queue_is_the_same_on_every_rank_and_on_any_number_of_them() -> None:
    right = filled_together(Ranks.alone())
    assert right[0].any()
    for held in on_ranks(2, filled_together):
        assert all(torch.equal(a, b) for a, b in zip(held, right, strict=True))
