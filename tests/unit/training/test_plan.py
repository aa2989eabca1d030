"""A plan adds up, refuses what cannot be, and its remedies are remedies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mrdist.errors import RecipeError
from mrdist.recipe import Recipe, load
from mrdist.site import Allocation, Device, read
from mrdist.training import costs
from mrdist.training.fitting import change, most_rows, refuse
from mrdist.training.footprint import Footprint, Line
from mrdist.training.plan import GIB, Plan, plan

FAKE = Device("fake", memory=24, bf16=100, fp32=20)
NODE = Allocation(nodes=1, per_node=8, device=FAKE, cores=16, inside=100, between=10)


def look(recipe: Recipe, width: int) -> Footprint:
    """A student whose rows take 0.5 GiB each, a fifth of that recomputed."""
    again = recipe.student.recompute
    return Footprint((Line(0.0, GIB * (0.1 if again else 0.5)),), 1e11, 4e11 if again else 3e11, None, "made up")


def planned(*changes: str, where: Allocation = NODE) -> Plan:
    return plan(load("mrd/base", ["batch=512", "engine=plain", *changes]), where, width=1024, look=look)


def test_the_giant_is_as_large_as_its_released_weights_and_trains_as_it_was_trained():
    """Uni3D-giant: 1,012.9 M parameters; trained with ZeRO-1, half precision, 48 rows on each of 8 GPUs of 80 GB per node."""
    recipe = load("mrd/giant", ["engine=zero1", "engine.precision=bf16", "batch=1152"])
    bill = plan(recipe, read("example").allocation(nodes=3), width=1024)
    assert bill.census.parameters == pytest.approx(1012.864e6, rel=1e-4)
    assert bill.rows == 48
    assert bill.fits
    alone = plan(replace(recipe, batch=48), read("example").allocation(nodes=1, gpus=1), width=1024)
    assert sum(item.bytes for item in alone.states) > 20 * 1012.864e6, "one GPU alone holds all five copies in float32"


def test_states_shrink_with_the_stage_and_the_ranks():
    def states(stage: int, ranks: int) -> float:
        recipe = load("mrd/giant", [f"engine=zero{stage}", "engine.live=0"])
        return sum(item.bytes for item in costs.states(costs.census(recipe, 1024), recipe, ranks)[0]) / GIB

    by_stage = [states(stage, 8) for stage in range(4)]
    assert by_stage == sorted(by_stage, reverse=True)
    assert states(3, 64) < states(3, 8) / 4


def test_memory_is_the_sum_of_its_parts_and_the_most_rows_are_the_most():
    bill = planned("engine=zero2", "batch=64")
    parts = [*bill.states, *bill.activations, *bill.relation, *bill.inputs]
    assert bill.needed == sum(item.bytes for item in parts)
    plain = planned("batch=64")
    (copies,) = (item for item in plain.states if item.after)
    parts = [*plain.states, *plain.activations, *plain.relation, *plain.inputs]
    assert plain.needed == sum(item.bytes for item in parts) - copies.bytes, "gradients travel when activations are gone"
    few = planned("batch=8", "student.recompute=true")
    assert few.needed == sum(item.bytes for item in (*few.states, *few.inputs)), "and may be more than these were"
    assert bill.fits
    most = most_rows(bill)
    assert planned("engine=zero2", f"batch={8 * most}").fits
    assert not planned("engine=zero2", f"batch={8 * (most + 1)}").fits


def test_the_remedy_is_the_smallest_change_that_fits():
    bill = planned()
    assert not bill.fits
    with pytest.raises(RecipeError) as refused:
        refuse(bill, look=look)
    assert refused.value.what == "mrd/base on 1 x 8 fake"
    assert refused.value.try_ == "student.recompute=true"
    assert planned("student.recompute=true").fits


def test_chunks_are_as_large_as_they_may_be():
    bill = planned("student.recompute=true", "batch=4096")
    assert change(bill, look=look) == "engine.chunk=128"
    assert planned("student.recompute=true", "batch=4096", "engine.chunk=128").fits
    assert not planned("student.recompute=true", "batch=4096", "engine.chunk=256").fits


def test_every_word_of_a_remedy_is_needed_and_together_they_do():
    small = replace(NODE, device=replace(FAKE, memory=2.0))
    words = (change(planned(where=small), look=look) or "").split()
    assert len(words) > 1
    assert planned(*words, where=small).fits
    assert not any(planned(*words[:k], *words[k + 1 :], where=small).fits for k in range(len(words)))


def test_what_nothing_helps_is_refused_without_a_false_promise():
    with pytest.raises(RecipeError, match="Try: a smaller student or batch"):
        refuse(planned(where=replace(NODE, device=replace(FAKE, memory=0.1))), look=look)


def test_a_batch_that_cannot_be_shared_is_refused_with_the_nearest_that_can():
    with pytest.raises(RecipeError, match=r"batch: got 100, wanted a multiple of 8 ranks. Try: batch=96"):
        planned("batch=100")


def test_nodes_too_small_for_their_ranks_are_refused():
    bill = planned("engine=zero3", "batch=64", where=replace(NODE, host=1.0))
    assert not bill.fits
    assert bill.needed < bill.usable
    with pytest.raises(RecipeError, match="in each node's own memory"):
        refuse(bill, look=look)


def test_slower_words_between_nodes_cost_time_and_wider_relations_do_not_cost_rows():
    near, far = planned(), planned("batch=1024", where=replace(NODE, nodes=2))
    assert near.rows == far.rows
    assert far.seconds.talking > near.seconds.talking
    assert near.efficiency > far.efficiency > 0
    assert far.rate < 2 * near.rate


def test_more_is_eaten_where_trainers_are_faster():
    slow, fast = planned(), planned(where=replace(NODE, device=replace(FAKE, bf16=1000, fp32=200)))
    assert fast.feed.shapes > 5 * slow.feed.shapes
    assert fast.feed.renderers > 5 * slow.feed.renderers
    # A device that is ten times as fast teaches ten times as fast, too.
    assert fast.feed.teachers == pytest.approx(slow.feed.teachers, rel=0.3)


def test_checkpoints_on_disk_are_what_a_checkpoint_holds():
    (checkpoints,) = (item for item in planned("optim.ema=0.9", "watch.keep=1").disk if item.what == "checkpoints")
    assert checkpoints.bytes == pytest.approx(3 * 16 * 87.1e6, rel=0.01)


def test_every_round_of_redrawn_views_lies_on_disk():
    def renders(*changes: str) -> float:
        recipe = load("mrd/base", ["batch=512", "steps=100", "engine=plain", *changes])
        return next(item.bytes for item in plan(recipe, NODE, width=1024, shapes=5120, look=look).disk if item.what == "renders")

    once = renders()
    assert renders("redraw=1") == 10 * once  # ten epochs of ten steps
    assert renders("redraw=4") == 3 * once
    assert renders("redraw=1", "fraction=0.5") == 20 * once  # epochs are half as long
