"""What a plan says that a step holds and sends is what real ranks hold and send."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mrdist.kinds import Part
from mrdist.objectives.base import Objective
from mrdist.objectives.mrd import MRDConfig
from mrdist.ranks import Ranks
from mrdist.recipe import Recipe
from mrdist.relation.asked import Relations
from mrdist.relation.terms import Tiling, relation_terms
from mrdist.shapes import TripletBatch
from mrdist.students.vit import ViTConfig
from mrdist.testing import on_ranks, share, tiny_triplets
from mrdist.training import costs
from mrdist.training.engine import PlainConfig
from mrdist.training.zero import ZeroConfig
from tests.ranks.real import real_recipe

needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed")

WIDTH = 32
STUDENT = ViTConfig(dim=96, depth=3, heads=3, hidden=192, groups=8, group_size=4, channels=(32, 64, 96, 96))
SMALL: dict[str, Any] = {"reduce_bucket": 1000, "allgather_bucket": 1000, "prefetch_bucket": 1000, "persistence": 0}
LARGE: dict[str, Any] = {**SMALL, "reduce_bucket": 100_000}
FORGETFUL: dict[str, Any] = {**SMALL, "live": 0, "reuse": 0}


def recipe_of(part: Part, ema: float = 0.0) -> Recipe:
    recipe = real_recipe(part)
    return replace(recipe, student=STUDENT, optim=replace(recipe.optim, ema=ema, layer_decay=1.0))


def make() -> Objective[TripletBatch]:
    return MRDConfig().build(STUDENT.build(WIDTH, seed=0))


def rows_of(ranks: Ranks) -> TripletBatch:
    return share(tiny_triplets(16, width=WIDTH, points=60), ranks)


def lying_here() -> int:
    """Bytes of all tensors that were made since garbage was last collected and frozen."""
    held = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None and not tensor.is_meta:
                    held[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
    return sum(held.values())


def held(ranks: Ranks, parts: list[tuple[Part, float]]) -> list[int]:
    """The most that lies there late in backward and while the optimiser moves."""
    out = []
    for part, ema in parts:
        gc.collect()
        gc.freeze()
        recipe, before, seen = recipe_of(part, ema), lying_here(), []
        engine = part.build(make, recipe, ranks, torch.device("cpu"))

        def look(*_: Any, seen: list[int] = seen, before: int = before) -> None:
            seen.append(lying_here() - before)

        # The first parameter is the last to get its gradient.
        next(iter(engine.objective.student.groups.parameters())).register_post_accumulate_grad_hook(look)
        engine._adam.register_step_pre_hook(look)
        engine.step(engine.forward(rows_of(ranks)))
        out.append(max(seen))
        engine.close()
        del engine
    gc.unfreeze()
    return out


@needs_deepspeed
def test_states_are_as_large_as_the_formula_says_on_two_ranks():
    parts: list[tuple[Part, float]] = [
        (PlainConfig(), 0.9), *((ZeroConfig(stage=stage, **SMALL), 0.0) for stage in (1, 2)),
        (ZeroConfig(stage=2, **LARGE), 0.9), (ZeroConfig(stage=2, overlap=False, **LARGE), 0.0), (ZeroConfig(stage=3, **SMALL), 0.9),
    ]  # fmt: skip
    for found in on_ranks(2, held, parts):
        for (part, ema), size in zip(parts, found, strict=True):
            recipe = recipe_of(part, ema)
            items, _ = costs.states(costs.census(recipe, WIDTH), recipe, 2)
            # Gone by then: what was lent in forward, and the copies that the plain engine and stage 0 send.
            there = [item for item in items if item.what not in ("lent weights", "copies")]
            assert sum(item.bytes for item in there) == pytest.approx(size, rel=0.1), (part, ema)


class Sent(TorchDispatchMode):
    """Bytes that this rank sends, as rings of ranks do it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.bytes = size, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func.__name__.split(".")[0].strip("_")
            sides = [sum(t.nbytes for t in tree_leaves(side) if isinstance(t, torch.Tensor)) for side in args[:2]]
            sent = {"send": sides[0], "allreduce": 2 * sides[0] * (self.size - 1) / self.size}
            if name in ("allgather_base", "reduce_scatter_base"):
                sent[name] = abs(sides[0] - sides[1])
            self.bytes[name] += int(sent.get(name, 0))
        return func(*args, **(kwargs or {}))


def step_sends(ranks: Ranks, parts: list[Part]) -> list[int]:
    out = []
    for part in parts:
        engine = part.build(make, recipe_of(part), ranks, torch.device("cpu"))
        engine.step(engine.forward(rows_of(ranks)))  # ZeRO-3 learns in the first step what comes next
        with Sent(ranks.size) as sent:
            engine.step(engine.forward(rows_of(ranks)))
        out.append(sent.bytes.total())
        engine.close()
    return out


@needs_deepspeed
def test_a_step_sends_as_much_as_the_formula_says_on_two_ranks():
    parts: list[Part] = [
        PlainConfig(), *(ZeroConfig(stage=stage, **SMALL) for stage in range(4)),
        ZeroConfig(stage=3, **FORGETFUL), ZeroConfig(stage=3, chunk=4, **FORGETFUL),
    ]  # fmt: skip
    for found in on_ranks(2, step_sends, parts):
        for part, size in zip(parts, found, strict=True):
            recipe = recipe_of(part)
            messages = costs.sent(costs.census(recipe, WIDTH), recipe, 2, WIDTH)
            assert sum(message.bytes for message in messages) == pytest.approx(size, rel=0.1), part


def relation_sends(ranks: Ranks, modes: list[str]) -> list[int]:
    out = []
    for mode in modes:
        batch = share(tiny_triplets(32 * ranks.size, width=128), ranks)
        points = batch.image.flip(0).clone().requires_grad_()
        with Sent(ranks.size) as sent:
            terms = relation_terms(
                points, batch.image, batch.text, scale=14.0, relations=Relations("both", "both"), has_image=batch.has_image,
                has_text=batch.has_text, ranks=ranks, tiling=Tiling(mode=mode),
            )  # fmt: skip
            terms.values.sum().backward()
        out.append(sent.bytes.total())
    return out


@pytest.mark.parametrize("size", [2, 4])
def test_relations_send_as_much_as_the_formula_says_in_every_mode(size):
    modes = ["row", "pair", "ring", "grid"]
    recipe = replace(recipe_of(PlainConfig()), batch=32 * size)
    for found in on_ranks(size, relation_sends, modes):
        for mode, bytes_sent in zip(modes, found, strict=True):
            asked = replace(recipe, objective=MRDConfig(tiling=Tiling(mode=mode)))
            messages = costs.sent(costs.census(asked, 128), asked, size, 128)
            of_relation = sum(message.bytes for message in messages if message.what != "gradients")
            assert of_relation == pytest.approx(bytes_sent, rel=0.1), mode
