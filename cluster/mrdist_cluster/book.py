"""The book: how many render, teach and train on what a cluster has, decided before anything starts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass

from mrdist.errors import RecipeError
from mrdist.recipe import Recipe
from mrdist_cluster.attempts import ranks_for

_ROUNDING = 1e-6  # ten tenths of a GPU are one


@dataclass(frozen=True)
class Node:
    """One machine of a cluster."""

    name: str
    cores: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Seat:
    """What one worker of a kind takes."""

    verb: str
    cores: float
    gpus: float

    def __str__(self) -> str:
        gpus = f"{self.gpus:g} GPU" if self.gpus else ""
        cores = f"{self.cores:g} core{'s' if self.cores != 1 else ''}" if self.cores else ""
        return " + ".join(filter(None, (gpus, cores)))


@dataclass(frozen=True)
class Share:
    """Who works: numbers of workers that fit beside one another."""

    nodes: tuple[Node, ...]
    render: Seat
    teach: Seat
    train: Seat
    renderers: int  # at most; a pool begins with the recipe's least
    teachers: int  # at most
    ranks: int
    alone: int  # renderers at most, while no teacher works: it may have to see all views first
    idle: str = ""  # GPUs that nobody uses, and what would use them

    @property
    def on_gpus(self) -> bool:
        """Whether ranks and teachers have GPUs."""
        return self.train.gpus > 0

    def lines(self) -> list[str]:
        """The book for people: one line per kind of worker, and what the cluster has."""
        taken = ((self.renderers, self.render), (self.teachers, self.teach), (self.ranks, self.train))
        cores, gpus = sum(node.cores for node in self.nodes), sum(node.gpus for node in self.nodes)
        return [
            f"cluster   {_amount(len(self.nodes), 'node')}: {_both(cores, gpus)}",
            *(f"{seat.verb:<9} {count} x {seat}" for count, seat in taken if count),
            *([f"idle      {self.idle}"] if self.idle else []),
        ]


def plan(recipe: Recipe, nodes: Sequence[Node], *, prepared: bool = False, training: bool = True, ranks: int | None = None) -> Share:
    """How many of each kind of worker, within the recipe's `pools`: first everybody's least, then ranks, teachers, renderers.

    Pure: asks no cluster. Ranks and teachers work on GPUs where there are any and the recipe does not say device=cpu.

    Args:
        prepared: nobody has to render or teach.
        training: nobody trains, if false.
        ranks: exactly so many; None: the most that fit and share the batch evenly.

    Raises:
        RecipeError: it does not fit; says what was wanted, what there is, and the smallest change that would do.
    """
    pools = recipe.pools
    on_gpus = recipe.device != "cpu" and any(node.gpus >= 1 for node in nodes)
    _check(recipe, on_gpus, nodes)
    render = Seat("render", pools.renderer_cores, 0)
    teach = Seat("teach", pools.teacher_cores, pools.teacher_gpus if on_gpus else 0)
    train = Seat("train", pools.trainer_cores, 1 if on_gpus else 0)
    least = () if prepared else ((pools.teachers[0], teach), (pools.renderers[0], render))
    room = _Room(nodes)
    enough = all(room.take(seat, count) == count for count, seat in least)
    places = room.take(train, recipe.batch) if enough and training else 0
    most = ranks_for(recipe.batch, places)
    asked = on_gpus and ranks is None  # who says how many ranks leaves the other GPUs alone
    ranks = 0 if not training else most if ranks is None else ranks
    if not enough or ranks > places or (training and ranks == 0):
        raise _refusal((*least, (max(ranks, int(training)), train)), nodes, most)

    places += room.take(train, sum(int(node.gpus) for node in nodes)) if asked and training else 0  # in a wider batch
    room = _Room(nodes)
    for count, seat in (*least, (ranks, train)):
        room.take(seat, count)
    if prepared:
        idle = _idle(recipe, room, ranks, places, None, teach) if asked else ""
        return Share(tuple(nodes), render, teach, train, renderers=0, teachers=0, ranks=ranks, alone=0, idle=idle)
    teachers = pools.teachers[0] + room.take(teach, pools.teachers[1] - pools.teachers[0])
    idle = _idle(recipe, deepcopy(room), ranks, places, teachers, teach) if asked else ""
    renderers = pools.renderers[0] + room.take(render, pools.renderers[1] - pools.renderers[0])
    room = _Room(nodes)
    room.take(train, ranks)
    alone = room.take(render, pools.renderers[1])
    return Share(tuple(nodes), render, teach, train, renderers, teachers, ranks, alone, idle)


def _idle(recipe: Recipe, room: _Room, ranks: int, places: int, teachers: int | None, teach: Seat) -> str:
    """Which GPUs ranks and teachers leave unused, and what would use them.

    Args:
        room: what they leave.
        places: for ranks, if only the batch could be shared by so many.
        teachers: how many there are; None: nobody has to teach.
    """
    gpus = room.whole_gpus
    if not gpus:
        return ""
    instead = "no cores are left beside them"
    if 0 < ranks < places:
        instead = f"batch={_batch_for(recipe.batch, places)} would train on {places}"
    elif teachers is not None and (more := room.take(teach, gpus)):
        instead = f"pools.teachers=[{recipe.pools.teachers[0]},{teachers + more}] would teach on {'it' if gpus == 1 else 'them'}"
    return f"{_amount(gpus, 'GPU')}: {instead}"


def _batch_for(batch: int, ranks: int) -> int:
    """The global batch nearest to `batch` that so many ranks share evenly, in eights of rows where each has as many."""
    rows = max(1, batch / ranks)
    return ranks * (8 * round(rows / 8) if rows >= 8 else round(rows))


class _Room:
    """What is free on every node; a GPU is shared only by those who take a part of it, and never together with a rank."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._free = [_Free(node.cores, [1.0] * int(node.gpus)) for node in nodes]

    def take(self, seat: Seat, most: int) -> int:
        """How many of `most` get a seat."""
        return next((count for count in range(most) if not self._seat(seat)), most)

    @property
    def whole_gpus(self) -> int:
        """GPUs of which nobody has any part."""
        return sum(free == 1.0 for node in self._free for free in node.gpus)

    def _seat(self, seat: Seat) -> bool:
        # Who needs no GPU leaves cores beside GPUs to others, as Ray does.
        return any(free.seat(seat) for free in sorted(self._free, key=lambda free: 0 if seat.gpus else len(free.gpus)))


@dataclass
class _Free:
    """What is free on a node."""

    cores: float
    gpus: list[float]  # the share of each

    def seat(self, seat: Seat) -> bool:
        """Whether one more sits here now."""
        share, number = min(seat.gpus, 1), math.ceil(seat.gpus)
        fitting = sorted(free for free in self.gpus if free + _ROUNDING >= share)[:number]
        if self.cores + _ROUNDING < seat.cores or len(fitting) < number:
            return False
        self.cores -= seat.cores
        for free in fitting:
            self.gpus.remove(free)
            self.gpus.append(free - share)
        return True


def _check(recipe: Recipe, on_gpus: bool, nodes: Sequence[Node]) -> None:
    pools = recipe.pools
    for name in ("renderers", "teachers"):
        few, many = getattr(pools, name)
        if not 1 <= few <= many:
            raise RecipeError(
                what=f"pools.{name}",
                got=f"[{few}, {many}]",
                wanted="the least, at least 1, and the most",
                try_=f"pools.{name}=[1,{max(1, many)}]",
            )
    for name, least in (("renderer_cores", 1), ("trainer_cores", 1), ("ahead", 1), ("retries", 0), ("restarts", 0), ("regroup", 0)):
        if getattr(pools, name) < least:
            raise RecipeError(what=f"pools.{name}", got=getattr(pools, name), wanted=f"at least {least}", try_=f"pools.{name}={least}")
    if pools.teacher_gpus > 1 and pools.teacher_gpus % 1:
        raise RecipeError(
            what="pools.teacher_gpus", got=pools.teacher_gpus, wanted="a share of one GPU, or whole ones", try_="pools.teacher_gpus=1"
        )
    if recipe.device == "cuda" and not on_gpus:
        raise RecipeError(what="device", got="cuda, and no node of the cluster has a GPU", wanted="a GPU", try_="device=auto")


def _refusal(demand: Iterable[tuple[int, Seat]], nodes: Sequence[Node], fit: int) -> RecipeError:
    wanted = [(count, seat) for count, seat in demand if count]
    totals = {
        "GPU": (sum(math.ceil(count * seat.gpus) for count, seat in wanted), sum(int(node.gpus) for node in nodes)),
        "core": (math.ceil(sum(count * seat.cores for count, seat in wanted)), sum(node.cores for node in nodes)),
    }
    what = f"the allocation of {_amount(len(nodes), 'node')}"
    for unit, (needs, has) in totals.items():
        if needs > has:
            sums = " + ".join(f"{seat.verb} {_each(count, seat, unit):g}" for count, seat in wanted if _each(count, seat, unit))
            return RecipeError(
                what=what, got=_amount(has, unit), wanted=f"{_amount(needs, unit)}: {sums}", try_=_smaller(wanted, unit, fit)
            )
    biggest = max((seat for _, seat in wanted), key=lambda seat: (seat.gpus, seat.cores))
    got = "; ".join(sorted({_both(node.cores, node.gpus) for node in nodes})) or "nothing"
    sums = " + ".join(f"{seat.verb} {count} x {seat}" for count, seat in wanted)
    return RecipeError(
        what=what, got=f"nodes of {got}", wanted=f"{sums}, each on one node", try_=f"less than {biggest} for each that is to {biggest.verb}"
    )


def _smaller(wanted: Sequence[tuple[int, Seat]], unit: str, fit: int) -> str:
    """The smallest change with which it might fit."""
    if fit:
        return f"{fit} ranks"
    if any(seat.verb == "train" for _, seat in wanted) and len(wanted) > 1:
        return "first what comes before training, alone: mrdist pipeline RECIPE"
    return "device=cpu" if unit == "GPU" else "a larger allocation, or less for each in pools"


def _each(count: int, seat: Seat, unit: str) -> float:
    return math.ceil(count * seat.gpus) if unit == "GPU" else count * seat.cores


def _both(cores: float, gpus: float) -> str:
    return _amount(cores, "core") + (f" and {_amount(gpus, 'GPU')}" if gpus else "")


def _amount(count: float, unit: str) -> str:
    return f"{count:g} {unit}{'s' if count != 1 else ''}"
