"""Shards are told their numbers by a first rank that never holds all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mrdist.objectives.base import Objective
from mrdist.objectives.mrd import MRDConfig
from mrdist.ranks import Ranks
from mrdist.students.vit import ViTConfig
from mrdist.testing import on_ranks
from mrdist.training.birth import hand_out
from mrdist.training.footprint import Live

STUDENT = ViTConfig(dim=96, depth=12, heads=3, hidden=192, groups=8, group_size=4, channels=(32, 64, 96, 96))


def make() -> Objective[Any]:
    return MRDConfig().build(STUDENT.build(64, seed=0))


def made_and(late: Callable[[Tensor], Tensor]) -> Objective[Any]:
    """An objective that changes a module's numbers after that was finished."""
    objective = make()
    with torch.no_grad():
        late(objective.student.blocks[3].mlp.fc1.weight)
    return objective


def zeroed() -> Objective[Any]:
    return made_and(nn.init.zeros_)


def halved() -> Objective[Any]:
    return made_and(lambda weight: weight.mul_(0.5))


def replaced() -> Objective[Any]:
    return made_and(lambda weight: weight.copy_(torch.ones_like(weight)))


def given(ranks: Ranks, makes: list[Callable[[], Objective[Any]]]) -> list[list[tuple[str, Tensor | None]]]:
    out = []
    for make in makes:
        told: list[tuple[str, Tensor | None]] = []
        hand_out(make, ranks, lambda name, value, told=told: told.append((name, None if value is None else value.clone())))  # type: ignore[misc]
        out.append(told)
    return out


@pytest.mark.parametrize("size", [1, 3])
def test_every_parameter_is_given_as_it_is_in_the_end_and_on_all_ranks_in_the_same_order(size: int) -> None:
    makes = [make, zeroed, halved, replaced]
    first, *others = on_ranks(size, given, makes)
    for made, told in zip(makes, first, strict=True):
        last = dict(told)
        wanted = dict(made().named_parameters())
        assert last.keys() == wanted.keys()
        assert all(torch.equal(last[name], wanted[name]) for name in wanted)
    assert len(first[0]) == len(dict(first[0])), "each once, where nothing is changed late"
    for other in others:
        assert [[(name, None) for name, _ in told] for told in first] == other


class Held(Live):
    """Bytes of tensors that have numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in tree_leaves(out)):
            return out
        return super().__torch_dispatch__(lambda: out, types)


def test_the_first_rank_holds_a_small_part_at_a_time() -> None:
    whole = sum(p.nbytes for p in make().parameters())
    with Held(nn.Module()) as there:
        kept = make()
    assert there.peak >= whole
    del kept
    with Held(nn.Module()) as born:
        hand_out(make, Ranks.alone(), lambda name, value: None)
    assert born.peak < whole / 5
