"""What a recipe will cost on an allocation: memory, words between ranks, time, food and disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mrdist.errors import RecipeError
from mrdist.recipe import Recipe
from mrdist.relation.schedule import Mode
from mrdist.site import Allocation
from mrdist.training import costs
from mrdist.training.costs import Census, Engine, Item, Message
from mrdist.training.feed import Feed, Kitchen, disk, feed
from mrdist.training.footprint import Footprint, counted

GIB = 2**30

Look = Callable[[Recipe, int], Footprint]
"""Says what rows of a recipe's student take, with embeddings of so many numbers."""


@dataclass(frozen=True)
class Assumptions:
    """What is neither in the recipe nor in the site, and was not measured here."""

    usable: float = 0.92
    """Share of a device's memory that tensors get: the rest is CUDA's context, NCCL's buffers and the allocator's gaps. Assumed."""
    uncounted: float = 0.1
    """Added to counted activations: workspaces of kernels that are no tensors. Assumed; nothing is added to measured ones."""
    matrix: float = 0.35
    """Share of a device's matrix rate that training reaches. Assumed: 480 A100-hours for 200 epochs of Uni3D-giant, as Duoduo CLIP
    quotes them, would be more than 0.5; nothing was measured here."""
    network: float = 0.8
    """Share of a site's `inside` and `between` that collectives reach over a whole step. Assumed."""
    hidden: float = 0.5
    """Share of the time of computing behind which what can travel early does travel. Assumed."""
    delay: float = 20e-6
    """Seconds of a collective per doubling of ranks, however little it sends. Assumed."""
    picks: float = 3e-6
    """Seconds to pick one of a student's groups on a GPU, for a batch: a pass over 120 KB in the L1 cache, and a reduction. Assumed."""


@dataclass(frozen=True)
class Seconds:
    """Of one step."""

    student: float
    grouping: float  # farthest points, one after another
    relation: float
    talking: float  # what does not hide behind the rest

    @property
    def computing(self) -> float:
        """What would be left if nothing had to travel."""
        return self.student + self.grouping + self.relation

    @property
    def all(self) -> float:
        """From step to step."""
        return self.computing + self.talking


@dataclass(frozen=True)
class Plan:
    """The bill. Bytes are of one rank, and per step where they are sent."""

    recipe: Recipe
    allocation: Allocation
    assumptions: Assumptions
    census: Census
    width: int  # E
    mode: Mode
    footprint: Footprint
    states: tuple[Item, ...]
    activations: tuple[Item, ...]
    relation: tuple[Item, ...]
    inputs: tuple[Item, ...]
    host: tuple[Item, ...]
    sent: tuple[Message, ...]
    seconds: Seconds
    feed: Feed
    disk: tuple[Item, ...]

    @property
    def rows(self) -> int:
        """Of one rank."""
        return self.recipe.batch // self.allocation.ranks

    @property
    def needed(self) -> float:
        """Bytes on a device at the worst moment."""
        return together((*self.states, *self.inputs), (*self.activations, *self.relation))

    @property
    def usable(self) -> float:
        """Bytes that tensors get."""
        return self.assumptions.usable * self.allocation.device.memory * GIB

    @property
    def host_needed(self) -> float:
        """Bytes of a node's own memory, of all its ranks."""
        return self.allocation.per_node * sum(item.bytes for item in self.host)

    @property
    def fits(self) -> bool:
        """Whether devices and nodes can hold it."""
        return self.needed <= self.usable and (not self.allocation.host or self.host_needed <= self.allocation.host * GIB)

    @property
    def rate(self) -> float:
        """Shapes per second, of all ranks."""
        return self.recipe.batch / self.seconds.all

    @property
    def hours(self) -> float:
        """For all steps."""
        return self.seconds.all * self.recipe.steps / 3600

    @property
    def efficiency(self) -> float:
        """Share of the time in which ranks compute."""
        return self.seconds.computing / self.seconds.all


def together(held: Iterable[Item], passing: Iterable[Item]) -> float:
    """The most bytes that lie there at once, if nothing in `passing` is left when that part of `held` comes which comes after backward."""
    late = sum(item.bytes for item in held if item.after)
    return sum(item.bytes for item in held if not item.after) + max(late, sum(item.bytes for item in passing))


def plan(
    recipe: Recipe,
    allocation: Allocation,
    *,
    width: int,
    shapes: int = 0,
    look: Look | None = None,
    assumptions: Assumptions | None = None,
    kitchen: Kitchen | None = None,
) -> Plan:
    """The bill of a recipe; whether it fits is for the caller to ask.

    Args:
        width: E, of the teacher's embeddings.
        shapes: of the catalogue, for the disk; 0: not known.
        look: what rows take; None: counted on paper.

    Raises:
        RecipeError: the batch cannot be shared equally.
    """
    ranks = allocation.ranks
    if recipe.batch % ranks:
        nearest = max(1, round(recipe.batch / ranks)) * ranks
        raise RecipeError(what="batch", got=recipe.batch, wanted=f"a multiple of {ranks} ranks", try_=f"batch={nearest}")
    assumed, cooks = assumptions or Assumptions(), kitchen or Kitchen()
    found, rows, gpu = costs.census(recipe, width), recipe.batch // ranks, allocation.device.name != "core"
    footprint = (look or on_paper)(recipe, width)
    states, host = costs.states(found, recipe, ranks)
    messages = costs.sent(found, recipe, ranks, width)
    mode = costs.relation_mode(recipe, ranks, width)
    seconds = _seconds(recipe, allocation, footprint, messages, mode, width, assumed, gpu=gpu)
    return Plan(
        recipe, allocation, assumed, found, width, mode, footprint,
        states=tuple(states),
        activations=tuple(activations(recipe, ranks, rows, width, footprint, assumed)),
        relation=tuple(costs.relation(recipe, ranks, width, gpu=gpu)),
        inputs=(Item("batches", 2 * rows * (6 * 4 * recipe.sample + 2 * 4 * width + 10), "this one and the next"),),
        host=tuple(host),
        sent=tuple(messages),
        seconds=seconds,
        feed=feed(recipe, allocation, recipe.batch / seconds.all, cooks),
        disk=tuple(disk(found, recipe, width, shapes, cooks)),
    )  # fmt: skip


def on_paper(recipe: Recipe, width: int) -> Footprint:
    """What rows of the recipe's student take, counted."""
    student: Any = recipe.student
    return counted(student, width=width, points=recipe.sample, precision=getattr(recipe.engine, "precision", "fp32"))


def activations(recipe: Recipe, ranks: int, rows: int, width: int, footprint: Footprint, assumed: Assumptions) -> list[Item]:
    """What so many rows per rank hold while they are embedded, as many at once as the engine's chunk, beside all states."""
    engine = Engine.of(recipe)
    at_once = min(rows, engine.chunk or rows)
    coming = costs.coming(engine, ranks, -(-rows // at_once))
    extra = 0.0 if footprint.seconds is not None else assumed.uncounted
    added = f", and {extra:.0%} for what is not counted" if extra else ""
    size = footprint.bytes(at_once, coming) + extra * footprint.bytes(at_once)
    out = [Item("activations", size, f"of {at_once} rows at once, {footprint.how}{added}")]
    if at_once < rows:
        out.append(Item("embeddings", 2 * 4 * rows * width + 5000 * rows / at_once, "of all chunks, with their gradients"))
    return out


def _seconds(
    recipe: Recipe, allocation: Allocation, footprint: Footprint, messages: list[Message], mode: Mode, width: int, assumed: Assumptions,
    *, gpu: bool,
) -> Seconds:  # fmt: skip
    ranks, chunk = allocation.ranks, Engine.of(recipe).chunk
    rows = recipe.batch // ranks
    chunks = -(-rows // chunk) if chunk else 1
    half = getattr(recipe.engine, "precision", "fp32") == "bf16"
    reached = 1e12 * assumed.matrix * (allocation.device.bf16 if half else allocation.device.fp32)
    again = footprint.forward if chunks > 1 else 0.0
    student = rows * (footprint.flops + again) / reached
    grouping = 0.0
    if footprint.seconds is not None:
        student = rows * footprint.seconds * (1 + again / footprint.flops)
    elif gpu:
        grouping = assumed.picks * getattr(recipe.student, "groups", 0) * (2 * chunks if chunks > 1 else 1)
    # 12 or 17 products of N x N x E, forward and backward: the schedule's modes.
    relation = (24 if mode.name == "pair" else 34) * rows * recipe.batch * width / reached
    computing = student + grouping + relation
    spent = {early: sum(_travel(m, allocation, assumed) for m in messages if m.early is early) for early in (True, False)}
    talking = spent[False] + max(0.0, spent[True] - assumed.hidden * computing)
    return Seconds(student, grouping, relation, talking)


def _travel(message: Message, allocation: Allocation, assumed: Assumptions) -> float:
    return message.bytes / (assumed.network * allocation.rate) + message.calls * assumed.delay * math.ceil(math.log2(allocation.ranks))
