"""Four steps are two, a resume, and two."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mrdist.ranks import Ranks
from mrdist.recipe import Recipe
from mrdist.testing import on_ranks
from mrdist.training.engine import PlainConfig
from mrdist.training.loop import train
from mrdist.training.run import Run
from mrdist.training.zero import ZeroConfig
from tests.ranks.test_zero import SMALL, distance
from tests.ranks.tiny import WIDTH, TinyLoader, tiny_recipe

State = dict[str, Tensor]
ENGINES = {"plain": PlainConfig(), **{f"zero{stage}": ZeroConfig(stage=stage, **SMALL) for stage in range(4)}}


def recipe_with(engine: str, steps: int) -> Recipe:
    return tiny_recipe(ENGINES[engine], steps=steps, clip=0.5, ema=0.9, log_every=0, pictures_every=0, save_every=0, silence=0.0)


def carried_out(ranks: Ranks, recipe: Recipe, folder: Path, until: int) -> State:
    """Train in a folder until a step (the recipe's schedule stays), and what is left then."""
    run = Run.open(recipe, folder, ranks, TinyLoader(ranks), WIDTH)
    run.watchers.append(Until(until))
    train(run)
    state = {name: tensor.clone() for name, tensor in run.engine.state()}
    run.engine.close()
    return state


class Until:
    """Asks its run to stop after a step, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, run, loss):
        run._agreed_to_stop = run.step >= self.step

    def at_end(self, run): ...

    def close(self): ...


def in_turn(ranks: Ranks, jobs: list[tuple[str, Path, int]]) -> list[State]:
    return [carried_out(ranks, recipe_with(engine, 4), folder, until) for engine, folder, until in jobs]


def test_four_steps_are_two_a_resume_and_two_bit_for_bit(tmp_path):
    whole = [(name, tmp_path / f"{name}-whole", 4) for name in ENGINES]
    halves = [(name, tmp_path / f"{name}-halves", until) for name in ENGINES for until in (2, 4)]
    for held in on_ranks(2, in_turn, [*whole, *halves]):
        for number, name in enumerate(ENGINES):
            once, twice = held[number], held[len(whole) + 2 * number + 1]
            assert all(torch.equal(once[key], twice[key]) for key in once), name
            assert once.keys() == twice.keys()
