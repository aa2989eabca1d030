"""Every engine is the same engine."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mrdist.ranks import Ranks
from mrdist.recipe import Recipe
from mrdist.testing import on_ranks
from mrdist.training.engine import PlainConfig
from mrdist.training.zero import ZeroConfig
from tests.ranks.tiny import TinyLoader, make, tiny_recipe

pytest.importorskip("deepspeed")

SMALL = {"reduce_bucket": 100, "allgather_bucket": 100, "prefetch_bucket": 100, "persistence": 20}
State = dict[str, Tensor]


def trained(ranks: Ranks, recipe: Recipe, dtype: torch.dtype = torch.float32) -> tuple[State, State, list[float]]:
    """State, exported student and per-step losses after the recipe's steps."""
    engine = recipe.engine.build(make, recipe, ranks, torch.device("cpu"))
    figures = []
    for batch in TinyLoader(ranks, dtype=dtype).batches(after=0):
        if engine.done == recipe.steps:
            break
        loss = engine.forward(batch)
        engine.step(loss)
        figures += [float(ranks.average(loss.total)), engine.gradient_norm]
    out = {name: tensor.clone() for name, tensor in engine.state()}, engine.student_state(), figures
    engine.close()
    return out


def trained_by_all(ranks: Ranks, recipes: list[Recipe]) -> list[tuple[State, State, list[float]]]:
    return [trained(ranks, recipe) for recipe in recipes]


def distance(a: State, b: State) -> float:
    """The largest difference of a tensor, relative to its norm."""
    assert a.keys() == b.keys()
    return max(float((a[n].double() - b[n].double()).norm() / b[n].double().norm().clamp(min=1e-12)) for n in a)


@pytest.mark.parametrize("size", [1, 2])
def test_plain_and_zero_0_1_2_3_are_equal_after_four_steps(size):
    plans = [(clip, stage) for clip in (0.0, 0.5) for stage in (None, 0, 1, 2, 3)]
    engines = [PlainConfig() if stage is None else ZeroConfig(stage=stage, **SMALL) for _, stage in plans]
    recipes = [tiny_recipe(engine, clip=clip, ema=0.9) for engine, (clip, _) in zip(engines, plans, strict=True)]
    references = {clip: trained(Ranks.alone(), tiny_recipe(clip=clip, ema=0.9)) for clip in (0.0, 0.5)}
    for results in on_ranks(size, trained_by_all, recipes):
        for (clip, stage), (state, student, figures) in zip(plans, results, strict=True):
            wanted = references[clip]
            print(size, clip, stage, distance(state, wanted[0]), distance(student, wanted[1]), max(abs(a-b) for a,b in zip(figures, wanted[2])))
            assert distance(state, wanted[0]) < 1e-6
            assert distance(student, wanted[1]) < 1e-6
            assert figures == pytest.approx(wanted[2], rel=2e-6)
