"""The processes that train together, and the only collectives an objective may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mrdist.clock import TALK, Clock
from mrdist.errors import RanksError, RecipeError
from mrdist.meeting import meet

BUCKET = 1 << 25
"""Numbers that `average_` sends at once."""

# torch 2.13 renames the tensor collectives and warns about the old names; take what is there.
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def this_device(name: str = "auto") -> torch.device:
    """Where this rank computes: `auto` is its own GPU (LOCAL_RANK's of the node), if there is one. That GPU becomes the current one.

    Raises:
        RecipeError: a GPU is wanted and there is none, or the name is unknown.
    """
    check_device(name)
    here = torch.cuda.is_available()
    if name == "cuda" and not here:
        raise RecipeError(what="device", got="cuda, and torch sees no GPU", wanted="a GPU", try_="device=auto, or mrdist doctor")
    if not here or name == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cuda", torch.cuda.current_device())


def check_device(name: str) -> None:
    """Refuse what is no device anywhere.

    Raises:
        RecipeError: the name is unknown.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise RecipeError(what="device", got=repr(name), wanted="auto, cpu or cuda", try_="device=auto")


class _Gather(torch.autograd.Function):
    """All rows of all ranks; in backward each rank receives the summed gradient of its own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        out = rows.new_empty((ranks.size * rows.shape[0], *rows.shape[1:]))
        with ranks.clock.at(TALK):
            _all_gather(out, rows.contiguous(), group=ranks.group)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        ranks: Ranks = ctx.ranks
        mine = grad.new_empty((grad.shape[0] // ranks.size, *grad.shape[1:]))
        with ranks.clock.at(TALK):
            _reduce_scatter(mine, grad.contiguous(), group=ranks.group)
        return mine, None


class _Sum(torch.autograd.Function):
    """The sum over ranks; in backward each rank receives everyone's gradient of it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.total(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.total(grads[0]), None


@dataclass(frozen=True)
class Ranks:
    """The processes that train together. `Ranks.alone()` is the same thing with one member.

    Every rank must call every method, in the same order, with tensors of the same shape:
    absent rows are masked, never cut out.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    clock: Clock = field(default_factory=Clock, compare=False, repr=False)  # every collective marks itself on it

    @classmethod
    def alone(cls) -> Ranks:
        """One process: no process group, no collective."""
        return cls()

    @classmethod
    def from_environment(cls, *, device: str = "auto", deadline: float = 600.0) -> Ranks:
        """The ranks that torchrun, srun or Ray Train started, or `alone()` if nobody did.

        Reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; joins the process group unless it stands already.

        Args:
            device: auto | cpu | cuda; see `this_device`. Ranks on GPUs talk through NCCL, others through gloo.
            deadline: seconds after which a collective that waits for a missing rank gives up.

        Raises:
            RanksError: the environment names a rank but no meeting point, or not all ranks meet there.
            RecipeError: as `this_device`.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        # Groups that are made later, by `grid` and by DeepSpeed, take torch's default: 10 minutes on GPUs, 30 on CPUs.
        defaults: Any = dist.distributed_c10d
        defaults.default_pg_timeout = defaults.default_pg_nccl_timeout = timedelta(seconds=deadline)
        if dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
        if size == 1:
            return cls.alone()
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise RanksError(
                what="environment",
                got=f"WORLD_SIZE={size} without {', '.join(missing)}",
                wanted="a meeting point",
                try_="start with torchrun",
            )
        meet(this_device(device), deadline=deadline)
        return cls(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)

    @property
    def first(self) -> bool:
        """Whether this rank speaks for all: prints, writes the run folder."""
        return self.rank == 0

    def gather(self, rows: Tensor) -> Tensor:
        """Everyone's rows, `[B, ...] -> [size * B, ...]`, ordered by rank; gradients return to their owner."""
        if self.size == 1:
            return rows
        if rows.dtype == torch.bool:
            return self.gather(rows.to(torch.uint8)).to(torch.bool)
        return _Gather.apply(rows, self)  # type: ignore[no-any-return,no-untyped-call]

    def scatter(self, held: Tensor, *, largest: bool = False) -> Tensor:
        """My part of a sum, or of what is largest: `held [size, n, ...]` lists one part per rank, mine comes back whole. No gradient."""
        if self.size == 1:
            return held[0]
        with self.clock.at(TALK):
            if largest:
                dist.all_reduce(held, op=dist.ReduceOp.MAX, group=self.group)
                return held[self.rank]
            mine = torch.empty_like(held[0])
            _reduce_scatter(mine, held.flatten(0, 1), group=self.group)
        return mine

    def pass_on(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Send `tensor` to the rank before me, and begin to receive the same from the rank after me; call the result to wait for it."""
        if tensor.numel() == 0:
            return lambda: tensor
        received, peers = torch.empty_like(tensor), [(self.rank + by) % self.size for by in (-1, 1)]
        to, source = (dist.get_global_rank(self.group, peer) if self.group else peer for peer in peers)
        sent = tensor.contiguous()
        waiting = dist.batch_isend_irecv(
            [dist.P2POp(dist.isend, sent, to, group=self.group), dist.P2POp(dist.irecv, received, source, group=self.group)]
        )

        def arrived() -> Tensor:
            with self.clock.at(TALK):
                for request in waiting:
                    request.wait()
            return received

        return arrived

    def grid(self, columns: int) -> tuple[Ranks, Ranks]:
        """My row and my column where ranks stand in a grid of `columns` columns, filled row by row; collectives work in each alone."""
        if columns in (1, self.size):
            alone = Ranks.alone()
            return (alone, self) if columns == 1 else (self, alone)
        return _grid(self, columns)

    def mean(self, values: Tensor, where: Tensor) -> Tensor:
        """My share of the mean of `values [B]` over all rows of all ranks that `where [B]` marks.

        size * sum(values * where) / (number of marked rows on all ranks): averaged over ranks, as data-parallel
        engines average gradients, it is exactly the global mean, however unevenly the rows are spread. No marked
        row anywhere gives 0.
        """
        present = where.to(values.dtype)
        count = self.total(present.sum()).clamp(min=1)
        # Not `values * present`: a masked row may hold inf or nan, and 0 * nan is nan.
        return self.size * torch.where(where, values, torch.zeros_like(values)).sum() / count

    def total(self, value: Tensor) -> Tensor:
        """The sum over ranks, without gradient."""
        value = value.detach().clone()
        if self.size > 1:
            with self.clock.at(TALK):
                dist.all_reduce(value, group=self.group)
        return value

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks; gradients return to everyone who had a part in it."""
        if self.size == 1:
            return values
        return _Sum.apply(values, self)  # type: ignore[no-any-return,no-untyped-call]

    def average(self, value: Tensor) -> Tensor:
        """The mean over ranks, without gradient: turns everyone's share from `mean` into the global value."""
        return self.total(value) / self.size

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each of `tensors` by its mean over ranks: how replicas average their gradients."""
        if self.size == 1:
            return
        waiting = list(tensors)
        while waiting:
            bucket = [waiting.pop(0)]
            while waiting and waiting[0].dtype == bucket[0].dtype and sum(t.numel() for t in bucket) + waiting[0].numel() <= BUCKET:
                bucket.append(waiting.pop(0))
            flat = self.average(torch.cat([tensor.reshape(-1) for tensor in bucket]))
            for tensor, mean in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def largest(self, value: float) -> float:
        """The largest of everyone's numbers."""
        if self.size == 1:
            return value
        device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(self.group) == "nccl" else torch.device("cpu")
        held = torch.tensor(value, dtype=torch.float64, device=device)
        with self.clock.at(TALK):
            dist.all_reduce(held, op=dist.ReduceOp.MAX, group=self.group)
        return float(held)

    def any(self, flag: bool) -> bool:
        """Whether at least one rank says yes."""
        return self.largest(float(flag)) > 0

    def wait(self) -> None:
        """Return when every rank has come here."""
        self.largest(0.0)

    def objects(self, thing: Any) -> list[Any]:
        """Everyone's small object (numbers, strings, tuples), ordered by rank. Not for tensors.

        torch pickles what it sends here; it comes from our own ranks only, never from a file.
        """
        if self.size == 1:
            return [thing]
        out: list[Any] = [None] * self.size
        with self.clock.at(TALK):
            dist.all_gather_object(out, thing, group=self.group)
        return out

    def agree(self, value: str, *, what: str) -> str:
        """`value`, if all ranks hold the same.

        Raises:
            RanksError: two ranks hold different values.
        """
        held = self.objects(value)
        if len(set(held)) > 1:
            other = next(i for i, v in enumerate(held) if v != held[0])
            raise RanksError(
                what=what,
                got=f"rank 0: {held[0]}, rank {other}: {held[other]}",
                wanted="the same on every rank",
                try_="start every rank with the same recipe, code and files",
            )
        return value

    def leave(self) -> None:
        """Close the process group, if there is one."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


@lru_cache
def _grid(ranks: Ranks, columns: int) -> tuple[Ranks, Ranks]:
    """Process groups are made once: every rank takes part in making each."""
    table = torch.arange(ranks.size).view(-1, columns)
    mine: list[Ranks] = []
    for lines in (table, table.T):
        for line in lines.tolist():
            group = dist.new_group([dist.get_global_rank(ranks.group, rank) if ranks.group else rank for rank in line])
            if ranks.rank in line:
                mine.append(Ranks(line.index(ranks.rank), len(line), group, ranks.clock))
    return mine[0], mine[1]
