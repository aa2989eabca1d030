"""Every engine is the same engine."""

from __future__ import annotations

import multiprocessing as mp
import os
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from mrdist.errors import RecipeError
from mrdist.kinds import Part
from mrdist.objectives.base import Objective
from mrdist.objectives.mrd import MRDConfig
from mrdist.ranks import Ranks
from mrdist.recipe import Recipe
from mrdist.shapes import TripletBatch
from mrdist.testing import on_ranks
from mrdist.training.engine import PlainConfig
from mrdist.training.zero import ZeroConfig, deepspeed_for, settings
from tests.ranks.real import STUDENT, RealLoader, real_recipe
from tests.ranks.real import WIDTH as REAL_WIDTH
from tests.ranks.tiny import TinyLoader, make, tiny_recipe
from tests.waiting import LATE

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed")

# Small enough that a tiny objective needs several buckets, and shares most of its parameters at stage 3.
SMALL = {"reduce_bucket": 100, "allgather_bucket": 100, "prefetch_bucket": 100, "persistence": 20}
CPU = torch.device("cpu")
State = dict[str, Tensor]


def trained(ranks: Ranks, recipe: Recipe) -> tuple[State, State, list[float]]:
    """After the recipe's steps: the full state, the exported student, and per step the loss and the gradient norm."""
    engine = recipe.engine.build(make, recipe, ranks, CPU)
    figures = []
    for batch in TinyLoader(ranks).batches(after=0):
        if engine.done == recipe.steps:
            break
        loss = engine.forward(batch)
        engine.step(loss)
        figures += [float(ranks.average(loss.total)), engine.gradient_norm]
    out = {name: tensor.clone() for name, tensor in engine.state()}, engine.student_state(), figures
    engine.close()
    return out


def trained_in_turn(ranks: Ranks, recipes: list[Recipe]) -> list[tuple[State, State, list[float]]]:
    return [trained(ranks, recipe) for recipe in recipes]


def distance(a: State, b: State) -> float:
    """The largest difference of a tensor, relative to its norm."""
    assert a.keys() == b.keys()
    return max(float((a[n].double() - b[n].double()).norm() / b[n].double().norm().clamp(min=1e-12)) for n in a)


def part(state: State, *kinds: str) -> State:
    return {name: tensor for name, tensor in state.items() if name.partition("/")[0] in kinds}


@pytest.mark.parametrize("size", [1, 2])
def test_plain_and_zero_0_1_2_3_are_equal_after_four_steps_with_and_without_clipping(size):
    plans = [(clip, stage) for clip in (0.0, 0.5) for stage in (None, 0, 1, 2, 3)]
    engines = [PlainConfig() if stage is None else ZeroConfig(stage=stage, **SMALL) for _, stage in plans]
    recipes = [tiny_recipe(engine, clip=clip, ema=0.9) for engine, (clip, _) in zip(engines, plans, strict=True)]
    references = {clip: trained(Ranks.alone(), tiny_recipe(clip=clip, ema=0.9)) for clip in (0.0, 0.5)}
    assert distance(references[0.0][1], references[0.5][1]) > 1e-3, "clipping at 0.5 must do something here"
    for results in on_ranks(size, trained_in_turn, recipes):
        for (clip, stage), (state, student, figures) in zip(plans, results, strict=True):
            wanted = references[clip]
            assert distance(part(state, "weights", "average"), part(wanted[0], "weights", "average")) < 1e-6, (clip, stage)
            # Moments of gradients that nearly cancel: rounding is larger beside them.
            assert distance(state, wanted[0]) < 5e-6, (clip, stage)
            assert distance(student, wanted[1]) < 1e-6, (clip, stage)
            assert figures == pytest.approx(wanted[2], rel=2e-6), (clip, stage)


def test_a_parameter_without_gradient_decays_in_every_engine():
    state, _, _ = trained(Ranks.alone(), tiny_recipe())
    assert float(state["weights/student.unused"][0, 0]) < 1.0


def test_an_objective_born_in_shards_has_the_numbers_of_one_born_whole():
    recipes = [tiny_recipe(ZeroConfig(stage=3, build_sharded=sharded, **SMALL)) for sharded in (False, True)]
    for whole, sharded in on_ranks(2, trained_in_turn, recipes):
        assert all(torch.equal(whole[0][name], sharded[0][name]) for name in whole[0])


def test_states_that_live_on_the_cpu_change_nothing():
    recipes = [tiny_recipe(ZeroConfig(stage=stage, offload=offload, **SMALL)) for stage in (2, 3) for offload in ("none", "cpu")]
    for two, two_offloaded, three, three_offloaded in on_ranks(2, trained_in_turn, recipes):
        assert distance(two[0], two_offloaded[0]) < 1e-6
        assert distance(three[0], three_offloaded[0]) < 1e-6


def test_bfloat16_is_the_same_in_every_engine_and_differs_from_float32():
    engines = [PlainConfig(precision="bf16"), *(ZeroConfig(stage=stage, precision="bf16", **SMALL) for stage in range(4))]
    exact = trained(Ranks.alone(), tiny_recipe())[0]
    for plain, *zeros in on_ranks(2, trained_in_turn, [tiny_recipe(engine) for engine in engines]):
        assert 1e-5 < distance(part(plain[0], "weights"), part(exact, "weights")) < 0.1
        for zero in zeros:
            assert distance(part(zero[0], "weights"), part(plain[0], "weights")) < 1e-5


def without_launcher(mail) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    torch.set_num_threads(1)
    mail.put(distance(trained(Ranks.alone(), tiny_recipe(ZeroConfig(stage=2, **SMALL)))[0], trained(Ranks.alone(), tiny_recipe())[0]))


def test_one_process_that_nobody_launched_can_use_zero():
    context = mp.get_context("forkserver")
    mail = context.Queue()
    process = context.Process(target=without_launcher, args=(mail,))
    process.start()
    process.join(LATE)  # what it has to say fits the pipe
    assert process.exitcode == 0
    assert mail.get(timeout=LATE) < 1e-6


def poisoned(ranks: Ranks, recipes: list[Recipe]) -> list[list[float]]:
    """Gradient norms of a good step, one with an infinite input on rank 1, and whether weights survived."""
    out = []
    for recipe in recipes:
        engine = recipe.engine.build(make, recipe, ranks, CPU)
        norms = []
        for number, batch in enumerate(TinyLoader(ranks).batches(after=0)):
            if number == 2:
                break
            if number == 1 and ranks.rank == 1:
                batch.xyz[0, 0, 0] = torch.inf
            engine.step(engine.forward(batch))
            norms.append(engine.gradient_norm)
        out.append(norms)
        engine.close()
    return out


def test_a_gradient_that_is_not_finite_never_looks_like_one_that_is():
    recipes = [tiny_recipe(engine, clip=0.5) for engine in (PlainConfig(), *(ZeroConfig(stage=stage, **SMALL) for stage in range(4)))]
    for steps in zip(*on_ranks(2, poisoned, recipes), strict=True):
        assert all(0 < good < 100 for good, _ in steps)
        # Readings average over ranks: one that knows is enough.
        assert any(not abs(bad) < float("inf") for _, bad in steps)


def looked_at(ranks: Ranks, stage: int) -> tuple[float, float, float]:
    """At stage 3: pictures taken between steps, and a plain copy of the student, against those of the plain engine."""
    held = []
    for config in (PlainConfig(), ZeroConfig(stage=stage, **SMALL)):
        recipe = tiny_recipe(config, ema=0.5)
        engine = recipe.engine.build(make, recipe, ranks, CPU)
        pictures = []
        for batch in TinyLoader(ranks).batches(after=0):
            if engine.done == recipe.steps:
                break
            with torch.no_grad(), engine.readable():
                pictures.append(engine.objective.pictures(batch, ranks)["student"].clone())
            engine.step(engine.forward(batch))
        held.append((torch.stack(pictures), engine.student_state(), {n: t.clone() for n, t in engine.state()}))
        engine.close()
    (plain, student, state), (shown, zero_student, zero_state) = held
    return (
        float((plain - shown).abs().max()),
        distance(zero_student, student),
        distance(part(zero_state, "weights"), part(state, "weights")),
    )


def test_pictures_and_averages_under_zero_3_are_those_of_the_plain_engine():
    for pictures, student, weights in on_ranks(2, looked_at, 3):
        assert pictures < 1e-5
        assert student < 1e-6
        assert weights < 1e-6, "looking must change nothing"


def test_a_missing_deepspeed_is_said_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(RecipeError, match=r"Try: \./install\.sh '\.\[cluster\]', or engine=plain"):
        deepspeed_for(CPU)


@pytest.mark.parametrize(
    ("field", "config"),
    [
        ("stage", ZeroConfig(stage=4)),
        ("precision", ZeroConfig(precision="fp16")),
        ("offload", ZeroConfig(stage=1, offload="cpu")),
        ("communication", ZeroConfig(communication="bf16")),
        ("build_sharded", ZeroConfig(stage=2, build_sharded=True)),
        ("precision", PlainConfig(precision="half")),
    ],
)
def test_an_engine_that_cannot_be_is_refused_before_anything_starts(field, config):
    with pytest.raises(RecipeError, match=f"engine.{field}"):
        config.check(tiny_recipe(config))


def make_grown() -> Objective[TripletBatch]:
    """The real objective around the real student, half of whose weights have rates and decays of their own: it has doubled its width."""
    return MRDConfig(warmup=2).build(replace(STUDENT, parametrisation="mup", base_dim=12).build(REAL_WIDTH, seed=0))


def really_trained(ranks: Ranks, engines: list[Part]) -> list[tuple[State, list[float], float]]:
    """The real objective and student, with dropped patches and paths, and pictures between the steps."""
    out = []
    for config in engines:
        recipe = real_recipe(config)
        engine = recipe.engine.build(make_grown, recipe, ranks, CPU)
        figures, shown = [], 0.0
        for batch in RealLoader(ranks).batches(after=0):
            if engine.done == recipe.steps:
                break
            loss = engine.forward(batch)
            engine.step(loss)
            with torch.no_grad(), engine.readable():
                shown += float(engine.objective.pictures(batch, ranks)["student"].sum())
            figures += [float(ranks.average(loss.total)), engine.gradient_norm]
        out.append((engine.student_state(), figures, shown))
        engine.close()
    return out


def test_the_real_objective_and_student_train_alike_in_every_engine_and_on_two_ranks():
    [(student, figures, shown)] = really_trained(Ranks.alone(), [PlainConfig()])
    engines = [PlainConfig(), *(ZeroConfig(stage=stage, **SMALL | {"persistence": 200}) for stage in range(4))]
    for results in on_ranks(2, really_trained, engines):
        for other, other_figures, other_shown in results:
            # Over all weights, not tensor by tensor: a maximum over points that is nearly a tie may fall to another point.
            apart = torch.cat([(other[name] - student[name]).flatten() for name in student]).norm()
            assert apart / torch.cat([tensor.flatten() for tensor in student.values()]).norm() < 1e-5
            assert other_figures == pytest.approx(figures, rel=1e-5)
            assert other_shown == pytest.approx(shown, rel=1e-4)


def halved(ranks: Ranks) -> list[str]:
    """The classes of linear layers whose weights do not travel as bfloat16 although they should."""
    recipe = real_recipe(ZeroConfig(stage=2, precision="bf16", communication="bf16", **SMALL))
    engine = recipe.engine.build(make_grown, recipe, ranks, CPU)
    first = next(iter(RealLoader(ranks).batches(after=0)))
    engine.step(engine.forward(first))
    linear = [module for module in engine.objective.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv1d)]
    engine.close()
    return sorted({type(one).__name__ for one in linear if getattr(one.weight, "comm_dtype", None) != torch.bfloat16})


def test_every_kind_of_linear_layer_travels_as_bfloat16_where_that_is_asked_for():
    assert on_ranks(2, halved) == [[], []]


def wrong_when_gathered(ranks: Ranks, times: int) -> int:
    """How often a large parameter is not what it is, gathered together with a small one that arrives sooner."""
    deepspeed = deepspeed_for(CPU)
    recipe = tiny_recipe(ZeroConfig(stage=3))
    module = torch.nn.ParameterList([torch.nn.Parameter(torch.full((size,), 1.0 + size)) for size in (3_000_001, 5)])
    deepspeed.zero.Init(module=module, config_dict_or_path=settings(recipe.engine, recipe, ranks, CPU))
    wrong = 0
    for _ in range(times):
        with deepspeed.zero.GatheredParameters(list(module)):
            wrong += sum(not bool((p == 1 + p.ds_numel).all()) for p in module)
    return wrong


def test_parameters_that_are_gathered_together_have_all_arrived():
    assert on_ranks(2, wrong_when_gathered, 10) == [0, 0]
