"""Farthest points, nearest points, balls: against plain definitions."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrdist.errors import DataError
from mrdist.students import grouping
from mrdist.students.grouping import farthest, nearest, take, within


def clouds(count: int, points: int, *, seed: int = 0) -> Tensor:
    """Points on spheres of several shapes."""
    random = torch.Generator().manual_seed(seed)
    on_sphere = torch.nn.functional.normalize(torch.randn(count, points, 3, generator=random), dim=-1)
    return on_sphere * (0.2 + torch.rand(count, 1, 3, generator=random))


def farthest_by_definition(cloud: NDArray[np.float32], count: int, start: int) -> list[int]:
    gap, picks = np.full(len(cloud), np.inf, dtype=np.float32), [start]
    while len(picks) < count:
        square = (cloud - cloud[picks[-1]]) ** 2
        gap = np.minimum(gap, square[:, 0] + square[:, 1] + square[:, 2])
        picks.append(int(gap.argmax()))
    return picks


def spread(places: Tensor) -> list[float]:
    """How far each pick was from those before it."""
    return [float((places[:k] - places[k]).norm(dim=-1).min()) for k in range(1, len(places))]


@pytest.mark.parametrize(("points", "count"), [(1, 1), (2, 2), (5, 3), (40, 40), (300, 17), (1024, 64), (10_000, 128)])
def test_farthest_points_are_exact(points: int, count: int) -> None:
    xyz = clouds(3, points)
    picks = farthest(xyz, count)
    for cloud, picked in zip(xyz, picks, strict=True):
        assert picked.tolist() == farthest_by_definition(cloud.numpy(), count, int(picked[0]))


def test_both_ways_to_farthest_points_agree() -> None:
    xyz = clouds(100, 2000)
    assert farthest(xyz, 64).equal(grouping._farthest(xyz, 64, grouping._outermost(xyz)))


def test_a_start_can_be_named() -> None:
    xyz = clouds(4, 200)
    picks = farthest(xyz, 20, start=7)
    assert (picks[:, 0] == 7).all()
    assert picks[2].tolist() == farthest_by_definition(xyz[2].numpy(), 20, 7)


def test_groups_move_grow_and_are_reordered_with_the_cloud() -> None:
    xyz = clouds(3, 500)
    picks = farthest(xyz, 32)
    assert farthest(2 * xyz + 1, 32).equal(picks)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    assert take(xyz[:, order], farthest(xyz[:, order], 32)).equal(take(xyz, picks))


@pytest.mark.parametrize("flat", [0, 1, 2])
def test_flat_clouds_and_repeated_points_are_grouped_too(flat: int) -> None:
    xyz = clouds(2, 50, seed=flat)
    xyz[..., :flat] = 0
    again = xyz.repeat(1, 4, 1)  # 200 points in 50 places
    places = take(again, farthest(again, 100))
    assert len(torch.unique(places[0], dim=0)) == 50
    assert min(spread(places[0])[:49]) > 0
    assert take(again, farthest(again, 20)).equal(take(xyz, farthest(xyz, 20)))
    assert nearest(again, places, 8).shape == (2, 100, 8)


def test_a_cloud_of_one_place_is_grouped_too() -> None:
    xyz = torch.full((2, 30, 3), 0.25)
    centres = take(xyz, farthest(xyz, 7))
    assert centres.shape == (2, 7, 3)
    assert nearest(xyz, centres, 30).sort(-1).values.equal(torch.arange(30).expand(2, 7, 30))
    assert within(xyz, centres, 0.1, 4).equal(torch.arange(4).expand(2, 7, 4))


def test_where_points_tie_each_pick_is_still_one_of_the_farthest() -> None:
    axis = torch.arange(6.0)
    xyz = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
    gap = torch.full((216,), torch.inf)
    for pick in farthest(xyz[None], 100)[0]:
        assert gap[pick] == gap.max()
        gap = torch.minimum(gap, (xyz - xyz[pick]).square().sum(-1))


@pytest.mark.parametrize("fast", [True, False], ids=["tree", "torch"])
def test_nearest_points_are_the_nearest(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    xyz = clouds(3, 700)
    centres = take(xyz, farthest(xyz, 30))
    monkeypatch.setattr(grouping, "_CHUNK", 700 * 30 * 2)  # two clouds at a time
    found = nearest(xyz, centres, 16) if fast else grouping._chunked(lambda p, c: grouping._nearest(p, c, 16), xyz, centres)
    distance = (centres.double()[:, :, None] - xyz.double()[:, None]).norm(dim=-1)
    assert found.sort(-1).values.equal(distance.argsort(-1)[..., :16].sort(-1).values)


@pytest.mark.parametrize("fast", [True, False], ids=["tree", "torch"])
def test_balls_hold_the_first_points_inside_and_repeat_the_first(fast: bool) -> None:
    xyz = clouds(3, 700)
    centres = take(xyz, farthest(xyz, 30))
    found = within(xyz, centres, 0.2, 16) if fast else grouping._balls(xyz, centres, 0.2, 16)
    distance = (centres.double()[:, :, None] - xyz.double()[:, None]).norm(dim=-1)
    short = 0
    for inside, members in zip((distance <= 0.2).flatten(0, 1), found.flatten(0, 1), strict=True):
        wanted = inside.nonzero()[:16, 0].tolist()
        short += len(wanted) < 16
        assert members.tolist() == wanted + wanted[:1] * (16 - len(wanted))
    assert 0 < short < 90


def test_threads_and_precision_change_nothing() -> None:
    xyz = clouds(5, 400)
    picks, members = farthest(xyz, 20), nearest(xyz, xyz[:, :9], 6)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert farthest(xyz, 20).equal(picks)
        assert nearest(xyz.double(), xyz[:, :9].double(), 6).equal(members)
    finally:
        torch.set_num_threads(before)
    assert farthest(xyz.double().requires_grad_(), 20).equal(picks)


def test_too_few_points_are_one_clear_error() -> None:
    with pytest.raises(DataError, match="got 10 per cloud, wanted at least 11, as many as groups"):
        farthest(clouds(2, 10), 11)
    with pytest.raises(DataError, match="as many as neighbours"):
        nearest(clouds(2, 10), clouds(2, 3), 11)


def test_farthest_points_are_many_times_faster_than_their_definition() -> None:
    xyz = clouds(4, 10_000)

    def seconds(work: object) -> float:
        began = time.process_time()
        work()  # type: ignore[operator]
        return time.process_time() - began

    fast = min(seconds(lambda: farthest(xyz, 256)) for _ in range(3))
    assert fast * 4 < seconds(lambda: grouping._farthest(xyz, 256, grouping._outermost(xyz)))
