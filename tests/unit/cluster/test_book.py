"""Who works where is decided from numbers alone, and refused in words before anything starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mrdist.errors import RecipeError
from mrdist.recipe import Pools, Recipe
from mrdist_cluster.book import Node, plan

POOLS = Pools(renderers=(1, 64), teachers=(1, 8), renderer_cores=1, teacher_cores=1, teacher_gpus=1, trainer_cores=1)


def recipe(batch: int = 64, device: str = "auto", **pools: object) -> Recipe:
    return Recipe(name="x", batch=batch, device=device, pools=replace(POOLS, **pools))  # type: ignore[arg-type]


def node(cores: float, gpus: float = 0, name: str = "n") -> Node:
    return Node(name, cores, gpus)


def test_a_cluster_that_is_one_gpu_short_is_refused_with_the_sum() -> None:
    with pytest.raises(RecipeError) as refused:
        plan(recipe(), [node(96, 8)], ranks=8)
    assert refused.value.got == "8 GPUs"
    assert refused.value.wanted == "9 GPUs: teach 1 + train 8"
    assert refused.value.try_ == "4 ranks"  # the most that fit beside the teacher and share 64 rows evenly


def test_one_gpu_cannot_teach_and_train_but_can_train_on_what_is_prepared() -> None:
    with pytest.raises(RecipeError, match=r"got 1 GPU, wanted 2 GPUs: teach 1 \+ train 1.*mrdist pipeline"):
        plan(recipe(), [node(16, 1)])
    share = plan(recipe(), [node(16, 1)], prepared=True)
    assert (share.renderers, share.teachers, share.ranks, share.alone) == (0, 0, 1, 0)


def test_ranks_come_first_and_what_is_left_teaches_and_renders_within_the_pools() -> None:
    share = plan(recipe(), [node(32, 8), node(32, 8), node(128)])
    assert share.on_gpus
    assert (share.ranks, share.teachers) == (8, 8)  # 15 GPUs beside a teacher, of which 8 ranks share 64 rows evenly
    assert share.renderers == 64
    assert plan(recipe(renderers=(1, 200)), [node(32, 8), node(32, 8), node(128)]).renderers == 192 - 8 - 8
    assert plan(recipe(teachers=(2, 3)), [node(32, 8), node(32, 8)]).teachers == 3


def test_without_gpus_everybody_works_on_cores() -> None:
    share = plan(recipe(batch=4), [node(4), node(4)])
    assert not share.on_gpus
    assert (share.ranks, share.teachers, share.renderers) == (4, 3, 1)
    assert share.alone == 4  # those cores that do not train, while nobody teaches
    with pytest.raises(RecipeError, match=r"got 2 cores, wanted 3 cores: teach 1 \+ render 1 \+ train 1"):
        plan(recipe(), [node(2)])
    with pytest.raises(RecipeError, match=r"got 1 core, wanted 2 cores: teach 1 \+ render 1.*less for each in pools"):
        plan(recipe(), [node(1)], training=False)
    alone = plan(recipe(), [node(2)], training=False)
    assert (alone.ranks, alone.teachers, alone.renderers, alone.alone) == (0, 1, 1, 2)


def test_a_recipe_that_says_cpu_leaves_the_gpus_alone() -> None:
    share = plan(recipe(batch=4, device="cpu", teacher_gpus=4), [node(6, 8)])
    assert (share.on_gpus, share.ranks) == (False, 4)
    with pytest.raises(RecipeError, match="no node of the cluster has a GPU"):
        plan(recipe(device="cuda"), [node(6)])


@pytest.mark.parametrize(("part", "ranks"), [(0.25, 4), (0.5, 4), (1, 3)])
def test_teachers_share_a_gpu_but_never_a_ranks(part: float, ranks: int) -> None:
    share = plan(recipe(batch=12, teacher_gpus=part, teachers=(4, 4)), [node(64, 5 if part < 0.5 else 6 if part < 1 else 7)])
    assert (share.teachers, share.ranks) == (4, ranks)


def test_half_a_gpu_here_and_half_there_are_not_one() -> None:
    with pytest.raises(RecipeError, match=r"got 3 GPUs, wanted 4 GPUs: teach 2 \+ train 2"):
        plan(recipe(teacher_gpus=0.6, teachers=(2, 2)), [node(64, 3)], ranks=2)
    assert plan(recipe(teacher_gpus=0.5, teachers=(2, 2)), [node(64, 3)], ranks=2).ranks == 2


def test_what_does_not_fit_on_any_one_node_is_refused_though_the_sum_would_do() -> None:
    with pytest.raises(RecipeError, match=r"nodes of 4 cores.*render 1 x 8 cores.*each on one node"):
        plan(recipe(renderer_cores=8), [node(4)] * 8)
    with pytest.raises(RecipeError, match=r"each on one node.*2 GPU"):
        plan(recipe(teacher_gpus=2), [node(8, 1)] * 4, training=False)


def test_renderers_keep_off_nodes_with_gpus_while_there_are_others() -> None:
    share = plan(recipe(batch=8, trainer_cores=8, renderers=(16, 16)), [node(72, 9), node(16)])
    assert (share.ranks, share.renderers) == (8, 16)


def test_pools_that_mean_nothing_are_refused_by_name() -> None:
    for bad in ({"renderers": (3, 2)}, {"teachers": (0, 1)}, {"renderer_cores": 0}, {"teacher_gpus": 1.5}, {"retries": -1}, {"ahead": 0}):
        with pytest.raises(RecipeError, match=f"pools.{next(iter(bad))}"):
            plan(recipe(**bad), [node(64, 8)])


def test_the_book_reads_like_a_sentence_per_kind() -> None:
    assert plan(recipe(batch=8, teachers=(1, 2), renderers=(1, 20)), [node(32, 8), node(16)], ranks=4).lines() == [
        "cluster   2 nodes: 48 cores and 8 GPUs",
        "render    20 x 1 core",
        "teach     2 x 1 GPU + 1 core",
        "train     4 x 1 GPU + 1 core",
    ]


def test_gpus_that_nobody_uses_are_in_the_book_with_what_would_use_them() -> None:
    def last(*arguments: object, **more: object) -> str:
        return plan(*arguments, **more).lines()[-1]  # type: ignore[arg-type]

    assert last(recipe(batch=1024), [node(64, 7)], prepared=True) == "idle      3 GPUs: batch=1008 would train on 7"
    assert last(recipe(batch=1024), [node(64, 8)] * 4) == "idle      8 GPUs: batch=992 would train on 31"
    assert last(recipe(batch=12, teachers=(1, 1)), [node(64, 8)]) == "idle      1 GPU: batch=14 would train on 7"
    assert last(recipe(teachers=(1, 4)), [node(64, 8)], training=False) == "idle      4 GPUs: pools.teachers=[1,8] would teach on them"
    assert last(recipe(batch=4), [node(6, 8)]) == "idle      3 GPUs: no cores are left beside them"


@pytest.mark.parametrize("batch", [5, 12, 64, 100, 1000, 1024, 4096])
@pytest.mark.parametrize("gpus", [3, 5, 6, 7, 12, 31])
def test_the_batch_that_the_book_proposes_leaves_no_gpu_idle(batch: int, gpus: int) -> None:
    told = plan(recipe(batch=batch), [node(640, gpus)], prepared=True)
    if told.ranks == gpus:
        assert told.idle == ""
    else:
        proposed = int(told.idle.partition("batch=")[2].split()[0])
        assert plan(recipe(batch=proposed), [node(640, gpus)], prepared=True).ranks == gpus
        assert 0.7 < proposed / batch < 1.4 or batch < gpus


def test_gpus_that_nobody_asked_for_or_that_are_shared_are_not_idle() -> None:
    assert plan(recipe(batch=4, device="cpu"), [node(6, 8)]).idle == ""
    assert plan(recipe(batch=4, device="cpu"), [node(6, 8)], prepared=True).idle == ""
    assert plan(recipe(batch=8), [node(64, 8)], prepared=True, ranks=4).idle == ""
    assert plan(recipe(batch=4, teacher_gpus=0.25, teachers=(1, 1)), [node(64, 5)]).idle == ""
