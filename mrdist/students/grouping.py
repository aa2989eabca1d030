"""Which points stand for the others, and who their neighbours are: farthest points, nearest points, balls.

On a CPU each cloud goes through fpsample and scipy's tree; elsewhere the whole batch goes through plain torch, and farthest
points through a Triton kernel where one runs. All give the same groups, up to float32 ties. Indices are chosen in float32 and
carry no gradient, so that a model in float64 or bfloat16 sees the same groups.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrdist.errors import DataError
from mrdist.relation.kernels import available

Cloud = NDArray[np.float32]  # [N, 3]
Index = NDArray[np.int64]

_CHUNK = 2**27
"""Distances held at once off the CPU: 0.5 GiB in float32."""

_MOST = 16384
"""Points of a cloud whose distances fit into the registers of one program of `picking`."""


def farthest(xyz: Tensor, count: int, *, start: int | None = None) -> Tensor:
    """Pick points one by one, each as far as can be from those picked before (farthest point sampling).

    Args:
        xyz: [B, N, 3], finite.
        count: how many points, at most N. Once every distinct place is taken, places repeat.
        start: index of the first point of every cloud. None: the one that is farthest from a corner outside the cloud's
            box, which moves, grows and is reordered with the cloud.

    Returns:
        [B, count] int64, in the order of picking.

    Raises:
        DataError: fewer points than `count`.
    """
    _enough(xyz, count, "groups")
    xyz = xyz.detach().float()
    if start is not None:
        return _picked(xyz, count, torch.full(xyz.shape[:1], start, dtype=torch.int64, device=xyz.device))
    if xyz.device.type == "cpu":
        # fpsample sorts points into a tree before it looks up the start, so a start cannot simply be named. A guard in
        # front of the cloud, lower than all points on every axis, stays first through every split: sampling starts there.
        # Next comes the point farthest from the guard; and as the guard is farther from all points than they are from
        # one another, it has no say after that.
        guarded = torch.cat([_corner(xyz)[:, None], xyz], dim=1)
        return _each(lambda cloud: _farthest_of_cloud(cloud, count), guarded)
    return _picked(xyz, count, _outermost(xyz))


def nearest(xyz: Tensor, centres: Tensor, count: int) -> Tensor:
    """The `count` points that are nearest to each centre, `[B, G, count]` int64, in no order.

    Args:
        xyz: [B, N, 3].
        centres: [B, G, 3].

    Raises:
        DataError: fewer points than `count`.
    """
    _enough(xyz, count, "neighbours")
    xyz, centres = xyz.detach().float(), centres.detach().float()
    if xyz.device.type == "cpu":
        return _each(lambda cloud, middles: _tree(cloud).query(middles, np.arange(1, count + 1))[1], xyz, centres)
    return _chunked(lambda points, middles: _nearest(points, middles, count), xyz, centres)


def within(xyz: Tensor, centres: Tensor, radius: float, count: int) -> Tensor:
    """The first `count` points, in the order of `xyz`, that lie within `radius` of each centre; if fewer do, the first repeats.

    Not the nearest ones: Point-BERT's and OpenShape's weights know balls as PointNet++ queries them.

    Args:
        xyz: [B, N, 3].
        centres: [B, G, 3], each one of the points (so no ball is empty).

    Returns:
        [B, G, count] int64.
    """
    xyz, centres = xyz.detach().float(), centres.detach().float()
    if xyz.device.type == "cpu":
        return _each(lambda cloud, middles: _balls_of_cloud(cloud, middles, radius, count), xyz, centres)
    return _chunked(lambda points, middles: _balls(points, middles, radius, count), xyz, centres)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of `values [B, N, C]` at `index [B, ...]`: `[B, ..., C]`."""
    flat = index.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).view(*index.shape, values.shape[-1])


def _enough(xyz: Tensor, count: int, of: str) -> None:
    if xyz.shape[1] < count:
        wanted = f"at least {count}, as many as {of}"
        raise DataError(what="points", got=f"{xyz.shape[1]} per cloud", wanted=wanted, try_=f"sample more points, or have fewer {of}")


def _each(work: Callable[..., Index], *batches: Tensor) -> Tensor:
    """`work` on every cloud, in as many threads as torch may use (fpsample and scipy release the interpreter)."""
    clouds = [batch.numpy() for batch in batches]
    threads = min(torch.get_num_threads(), len(clouds[0]))
    if threads == 1:
        return torch.from_numpy(np.stack(list(map(work, *clouds))))
    with ThreadPoolExecutor(threads) as pool:
        return torch.from_numpy(np.stack(list(pool.map(work, *clouds))))


def _corner(xyz: Tensor) -> Tensor:
    """A point outside each cloud's box, `[B, 3]`, farther from all in it than its diameter."""
    # Off the diagonals, where symmetric shapes tie.
    low, high = xyz.amin(1), xyz.amax(1)
    return low - (high - low).amax(-1, keepdim=True) * low.new_tensor([1.1, 1.3, 1.7])


def _outermost(xyz: Tensor) -> Tensor:
    """Index of the point that is farthest from the corner: [B]."""
    return _square(xyz, _corner(xyz)).argmax(-1)


def _square(xyz: Tensor, place: Tensor) -> Tensor:
    """Squared distance of each of `xyz [B, N, 3]` from `place [B, 3]`: [B, N], added up in fpsample's order."""
    x, y, z = (xyz - place[:, None]).square().unbind(-1)
    return x + y + z


def _picked(xyz: Tensor, count: int, start: Tensor) -> Tensor:
    """Farthest points of a batch, from given first ones, `[B]`: by the kernel, where there is a GPU for it."""
    if xyz.shape[1] <= _MOST and available(xyz.device):
        from mrdist.students import picking

        return picking.farthest(xyz, count, start)
    return _farthest(xyz, count, start)


def _farthest(xyz: Tensor, count: int, start: Tensor) -> Tensor:
    """The definition, for a batch: `count` times, the point with the largest distance from all before."""
    picks = torch.empty(xyz.shape[0], count, dtype=torch.int64, device=xyz.device)
    rows = torch.arange(len(xyz), device=xyz.device)
    picks[:, 0] = start
    gap = torch.full(xyz.shape[:2], torch.inf, device=xyz.device)
    for k in range(1, count):
        gap = torch.minimum(gap, _square(xyz, xyz[rows, picks[:, k - 1]]))
        picks[:, k] = gap.argmax(-1)
    return picks


def _farthest_of_cloud(guarded: Cloud, count: int) -> Index:
    """The same picks for one cloud on a CPU, its guard in row 0: exact farthest points by buckets (Han et al., QuickFPS, 2023)."""
    import fpsample

    height = max(1, len(guarded).bit_length() - 9)  # measured: 2 for 1,024 points, 5 for 10,000
    picks: Index = fpsample.bucket_fps_kdline_sampling(guarded, count + 1, height, 0).astype(np.int64)
    # Once every place is taken all distances are 0, and the buckets pick anything, the guard too.
    again = (guarded[picks[:-1]] == guarded[picks[-1]]).all(-1).any()
    if picks[0] != 0 or again:
        cloud = torch.from_numpy(guarded[None, 1:])
        found: Index = _farthest(cloud, count, _outermost(cloud))[0].numpy()
        return found
    return picks[1:] - 1


def _tree(cloud: Cloud) -> Any:
    from scipy.spatial import cKDTree

    # Built once and asked once: a sloppy tree costs a third less than a tidy one.
    return cKDTree(cloud, balanced_tree=False, compact_nodes=False)


def _balls_of_cloud(cloud: Cloud, centres: Cloud, radius: float, count: int) -> Index:
    found = _tree(cloud).query_ball_point(centres, radius, return_sorted=True)
    members = np.empty((len(centres), count), dtype=np.int64)
    for row, inside in zip(members, found, strict=True):
        row[:] = inside[0]
        row[: len(inside)] = inside[:count]
    return members


def _nearest(xyz: Tensor, centres: Tensor, count: int) -> Tensor:
    return _distance(xyz, centres).topk(count, largest=False, sorted=False).indices


def _balls(xyz: Tensor, centres: Tensor, radius: float, count: int) -> Tensor:
    """For a batch, without sorting: the k-th point inside is where the running number of points inside reaches k."""
    number = (_distance(xyz, centres) <= radius).cumsum(-1, dtype=torch.int32)
    wanted = torch.arange(1, count + 1, dtype=torch.int32, device=xyz.device).expand(*number.shape[:2], count)
    members = torch.searchsorted(number, wanted.contiguous())
    return torch.where(members < xyz.shape[1], members, members[..., :1])


def _distance(xyz: Tensor, centres: Tensor) -> Tensor:
    """[B, G, N]. Not by matrix product: near neighbours are what its rounding confuses."""
    return torch.cdist(centres, xyz, compute_mode="donot_use_mm_for_euclid_dist")


def _chunked(work: Callable[[Tensor, Tensor], Tensor], xyz: Tensor, centres: Tensor) -> Tensor:
    """`work` on as many clouds at once as `_CHUNK` distances allow."""
    rows = max(1, _CHUNK // (centres.shape[1] * xyz.shape[1]))
    pieces = zip(torch.split(xyz, rows), torch.split(centres, rows), strict=True)
    return torch.cat([work(points, middles) for points, middles in pieces])
