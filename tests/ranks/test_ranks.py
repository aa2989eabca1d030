"""Collectives give every rank what one process would have had, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mrdist.errors import RanksError
from mrdist.ranks import Ranks
from mrdist.testing import on_ranks

ROWS = torch.arange(24, dtype=torch.float64).reshape(8, 3) / 7
WHERE = torch.tensor([1, 1, 1, 1, 0, 0, 1, 0]).bool()


def mine(rows: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    return rows.chunk(ranks.size)[ranks.rank]


def mean_and_gradient(ranks: Ranks) -> tuple[list[float], list[list[float]], list[bool]]:
    rows = mine(ROWS, ranks).clone().requires_grad_()
    everyone = ranks.gather(rows)
    values = (rows.sin() @ everyone.cos().T).sum(1)
    mean = ranks.mean(values, mine(WHERE, ranks))
    (gradient,) = torch.autograd.grad(mean, rows)
    # Engines average parameter gradients over ranks; the same factor here.
    return [float(ranks.average(mean))], (gradient / ranks.size).tolist(), ranks.gather(mine(WHERE, ranks)).tolist()


@pytest.mark.parametrize("size", [2, 4])
def test_a_global_mean_and_its_gradient_do_not_depend_on_the_number_of_ranks(size: int) -> None:
    (alone,), gradient, where = mean_and_gradient(Ranks.alone())
    held = on_ranks(size, mean_and_gradient)
    assert all(abs(value[0] - alone) < 1e-12 for value, _, _ in held)
    together = torch.tensor([row for _, rows, _ in held for row in rows], dtype=torch.float64)
    assert torch.allclose(together, torch.tensor(gradient, dtype=torch.float64), rtol=0, atol=1e-12)
    assert all(w == where == WHERE.tolist() for _, _, w in held)


def test_a_masked_row_may_hold_anything() -> None:
    values = torch.tensor([1.0, float("nan"), float("inf"), 3.0])
    assert float(Ranks.alone().mean(values, torch.tensor([True, False, False, True]))) == 2.0


def test_no_marked_row_gives_zero() -> None:
    assert float(Ranks.alone().mean(torch.ones(3), torch.zeros(3).bool())) == 0.0


def small_things(ranks: Ranks) -> list[Any]:
    return [
        ranks.largest(float(ranks.rank)),
        ranks.any(ranks.rank == 1),
        ranks.any(False),
        ranks.objects(ranks.rank),
        ranks.agree("same", what="word"),
    ]


def test_every_rank_hears_the_same() -> None:
    assert on_ranks(3, small_things) == [[2.0, True, False, [0, 1, 2], "same"]] * 3


def disagree(ranks: Ranks) -> None:
    ranks.agree(str(ranks.rank // 2), what="recipe")


def test_ranks_that_disagree_are_named() -> None:
    with pytest.raises(RanksError, match="rank 0: 0, rank 2: 1"):
        on_ranks(3, disagree)


def stay_away(ranks: Ranks) -> None:
    while ranks.rank == 0:
        ranks.wait()


def test_a_rank_that_waits_for_one_that_left_is_named() -> None:
    with pytest.raises(RanksError, match=r"ranks \[0\] of 2"):
        on_ranks(2, stay_away, deadline=3.0)


def parts(ranks: Ranks) -> dict[str, Any]:
    """What each new way of sending gives; rank r holds r + 1 in every number."""
    held = torch.full((ranks.size, 2, 3), float(ranks.rank + 1)) * torch.arange(1, ranks.size + 1)[:, None, None]
    number = torch.tensor([float(ranks.rank + 1)], requires_grad=True)
    total = ranks.sum(number)
    (slope,) = torch.autograd.grad(total * (ranks.rank + 1), number)
    row, column = ranks.grid(2)
    return {
        "sum": ranks.scatter(held).tolist(),
        "largest": ranks.scatter(held.clone(), largest=True).tolist(),
        "next": ranks.pass_on(torch.full((2,), float(ranks.rank)))().tolist(),
        "nothing": ranks.pass_on(torch.empty(0))().tolist(),
        "total": float(total.detach()),
        "slope": float(slope),
        "row": (row.rank, row.size, float(row.total(torch.tensor(float(ranks.rank))))),
        "column": (column.rank, column.size, float(column.total(torch.tensor(float(ranks.rank))))),
        "line": [side.size for side in (*ranks.grid(1), *ranks.grid(ranks.size))],
    }


def test_parts_sums_and_neighbours_arrive_where_they_belong() -> None:
    for rank, held in enumerate(on_ranks(4, parts)):
        assert torch.all(torch.tensor(held["sum"]) == 10 * (rank + 1))
        assert torch.all(torch.tensor(held["largest"]) == 4 * (rank + 1))
        assert held["next"] == [(rank + 1) % 4] * 2
        assert held["nothing"] == []
        assert held["total"] == 10
        assert held["slope"] == 10  # everyone's gradient of the sum: 1 + 2 + 3 + 4
        assert held["row"] == (rank % 2, 2, [1, 5][rank // 2])  # 0 1 / 2 3
        assert held["column"] == (rank // 2, 2, [2, 4][rank % 2])
        assert held["line"] == [1, 4, 4, 1]
