"""The plain engine, against a loop that anybody would write."""

from __future__ import annotations

import pytest
import torch

from mrdist.errors import RanksError
from mrdist.ranks import Ranks
from mrdist.recipe import Recipe
from mrdist.testing import on_ranks, tiny_triplets
from mrdist.training.ema import Average
from mrdist.training.engine import PlainConfig
from mrdist.training.optim import groups, rate
from tests.ranks.tiny import WIDTH, TinyLoader, TinyObjective, TinyStudent, make, tiny_recipe

CPU = torch.device("cpu")


def written_out(recipe: Recipe) -> TinyObjective:
    objective = make().double()
    adam = torch.optim.AdamW(groups(objective, recipe.optim), betas=recipe.optim.betas, eps=recipe.optim.eps)
    for step in range(recipe.steps):
        for group in adam.param_groups:
            group["lr"] = rate(step, recipe.optim, recipe.steps) * group["slowness"]
        loss = objective(tiny_triplets(8, width=WIDTH, seed=step, dtype=torch.float64), Ranks.alone()).total
        adam.zero_grad()
        loss.backward()
        objective.student.unused.grad = torch.zeros(5, 5, dtype=torch.float64)
        torch.nn.utils.clip_grad_norm_(objective.parameters(), recipe.optim.clip)
        adam.step()
    return objective


def trained(ranks: Ranks, recipe: Recipe) -> dict[str, torch.Tensor]:
    engine = recipe.engine.build(make, recipe, ranks, CPU)
    for step, batch in enumerate(TinyLoader(ranks, dtype=torch.float64).batches(after=0)):
        if step == recipe.steps:
            break
        engine.step(engine.forward(batch))
    return {name.removeprefix("weights/"): tensor for name, tensor in engine.state() if name.startswith("weights/")}


def test_the_plain_engine_is_the_loop_anybody_would_write_on_one_and_two_ranks():
    recipe = tiny_recipe(PlainConfig(precision="fp64"), clip=0.5)
    wanted = dict(written_out(recipe).named_parameters())
    for got in (trained(Ranks.alone(), recipe), *on_ranks(2, trained, recipe)):
        for name, parameter in wanted.items():
            torch.testing.assert_close(got[name], parameter.detach(), rtol=1e-12, atol=1e-12)


def started_apart(ranks: Ranks) -> None:
    recipe = tiny_recipe()
    recipe.engine.build(lambda: TinyObjective(TinyStudent(WIDTH, seed=ranks.rank)), recipe, ranks, CPU)


def test_replicas_that_start_apart_are_refused():
    with pytest.raises(RanksError, match="initial weights"):
        on_ranks(2, started_apart)


def test_an_average_follows_its_definition_and_forgets_its_random_start():
    student = TinyStudent(WIDTH, seed=0)
    average = Average(student, 0.5, lambda p: p.data)
    mean = student.token.detach().double()
    for step in range(1, 9):
        with torch.no_grad():
            student.token += 1
        average.follow(step)
        decay = min(0.5, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * student.token.detach().double()
    torch.testing.assert_close(average.held["token"].double(), mean)


def test_an_objective_is_told_how_far_the_run_is():
    told = []

    class Told(TinyObjective):
        def at_step(self, step, steps):
            told.append(("before", step, steps))

        def after_step(self, ranks, step):
            told.append(("after", step))

    recipe = tiny_recipe()
    engine = recipe.engine.build(lambda: Told(TinyStudent(WIDTH, 0)), recipe, Ranks.alone(), CPU)
    for _ in range(2):
        engine.step(engine.forward(tiny_triplets(8, width=WIDTH)))
    assert told == [("before", 0, 4), ("after", 1), ("before", 1, 4), ("after", 2)]
