"""What a step holds and sends on each rank, by formula; every formula here is compared with real steps in tests/ranks/test_costs.py."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn

from mrdist.objectives.base import Objective
from mrdist.ranks import BUCKET
from mrdist.recipe import Recipe
from mrdist.relation.schedule import Mode, choose, even
from mrdist.relation.terms import Tiling
from mrdist.training.optim import shape_of

TILES = 35
"""Matrices of block x block that lie there while a tile is compared, in float32: 24 to 35 with all terms (torch, one rank)."""

SUMS, NUMBERS = 384, 200
"""Bytes per row of the global batch that travel beside features: sums, which come home, and what rows tell others of themselves; with all
terms, counted on two and four ranks."""

FLATTENED = 500_000_000
"""Numbers that DeepSpeed's stage 0 copies side by side before it sends them."""


class Item(NamedTuple):
    """Some bytes, and why."""

    what: str
    bytes: float
    why: str
    after: bool = False  # whether it is there only after backward, when activations are gone


class Message(NamedTuple):
    """What a rank sends in a step."""

    what: str
    bytes: float
    why: str
    calls: float  # collectives, each with its own delay
    early: bool  # whether it can travel while something is computed


@dataclass(frozen=True)
class Census:
    """How many numbers an objective learns, without building it."""

    parameters: int
    learnt: int  # of them
    exported: int  # of them: what a running mean follows
    blocks: int  # of the student's stack
    linear: int  # of them in linear layers: what bf16 communication halves


def census(recipe: Recipe, width: int) -> Census:
    """Counted on the meta device; `width` is E, of a teacher's embedding."""
    return _census(recipe.student, recipe.objective, width)


@lru_cache(maxsize=64)
def _census(student: Any, config: Any, width: int) -> Census:
    with torch.device("meta"):
        objective: Objective[Any] = config.build(student.build(width, seed=0))
    linear = {id(p) for m in objective.modules() if isinstance(m, nn.Linear) for p in m.parameters(recurse=False)}
    counts = [(p.numel(), p.requires_grad, id(p) in linear) for p in objective.parameters() if shape_of(p)]
    return Census(
        parameters=sum(n for n, _, _ in counts),
        learnt=sum(n for n, learnt, _ in counts if learnt),
        exported=sum(p.numel() for p in objective.exported().parameters()),
        blocks=len(getattr(objective.student, "blocks", ())),
        linear=sum(n for n, _, inside in counts if inside),
    )


class Engine(NamedTuple):
    """What the formulas need of an engine's part of a recipe, whichever kind it is."""

    stage: int  # of ZeRO; -1: plain
    number: int  # bytes of a number
    chunk: int
    offload: bool
    overlap: bool
    half: bool  # whether linear layers travel in bfloat16
    bucket: int
    live: int
    sub_group: int
    sharded: bool

    @classmethod
    def of(cls, recipe: Recipe) -> Engine:
        """Of a recipe; a plugin's engine without these fields counts as a plain one."""
        part: Any = recipe.engine
        return cls(
            stage=getattr(part, "stage", -1),
            number=8 if getattr(part, "precision", "fp32") == "fp64" else 4,
            chunk=getattr(part, "chunk", 0),
            offload=getattr(part, "offload", "none") == "cpu",
            overlap=getattr(part, "overlap", False),
            half=getattr(part, "communication", "fp32") == "bf16",
            bucket=getattr(part, "reduce_bucket", BUCKET),
            live=min(getattr(part, "live", 0), getattr(part, "reuse", 0)),
            sub_group=getattr(part, "sub_group", 0),
            sharded=getattr(part, "build_sharded", False),
        )


def states(found: Census, recipe: Recipe, ranks: int) -> tuple[list[Item], list[Item]]:
    """What a rank's device holds besides activations, and what its share of the node's own memory holds."""
    engine = Engine.of(recipe)
    n, stage, share = engine.number, engine.stage, ranks if engine.stage > 0 else 1
    whole, learnt = n * found.parameters, n * found.learnt
    parts = 1 if not engine.chunk else -(-recipe.batch // ranks // engine.chunk)
    cut = f" / {ranks}" if share > 1 else ""
    held = [Item("weights", whole / (share if stage == 3 else 1), f"{n} B a parameter" + (cut if stage == 3 else ""))]
    kept = [Item("optimiser", 2 * learnt / share, f"two moments{cut}")]
    if stage > 0:
        kept.insert(0, Item("master weights", learnt / share, f"ZeRO's own copy{cut}"))
    gradients = Item("gradients", learnt / (share if stage > 1 else 1), f"{n} B a parameter" + (cut if stage > 1 else ""))
    host = []
    if engine.offload:
        host = [*kept, gradients, Item("for copies", learnt / share, "pinned")]
    else:
        held += [*kept, gradients]
    if parts > 1 and stage > 1:
        held.append(Item("whole gradients", learnt, f"of {parts} chunks, until the last one has added to them"))
    if recipe.optim.ema > 0:
        held.append(Item("running mean", n * found.exported / (share if stage == 3 else 1), "of the student" + (cut if stage == 3 else "")))
    if stage == 3:
        if not engine.offload:
            copy = n * min(found.learnt, engine.sub_group) / share
            held.append(Item("gradient in use", copy, "a copy while the optimiser moves", after=True))
        held.append(Item("lent weights", n * min(found.parameters, engine.live), "whole, while they are in use: engine.live"))
        if not engine.sharded:
            host.append(Item("building", whole, "every rank begins with a whole objective: engine.build_sharded=true avoids it"))
    held += _buckets(engine, found, ranks)
    return held, host


def coming(engine: Engine, ranks: int, parts: int) -> float:
    """The share of its gradients that a rank does not hold before backward comes to them, if a step embeds so many chunks.

    The plain engine keeps them from step to step, and stage 3 in a place of their own; of several chunks the first leaves them there.
    """
    if engine.offload or parts > 1 or engine.stage not in (0, 1, 2):
        return 0.0
    return 1.0 if engine.stage < 2 else 1 / ranks


def _buckets(engine: Engine, found: Census, ranks: int) -> list[Item]:
    if engine.stage < 0:
        copies = 3 * engine.number * min(found.learnt, BUCKET)
        return [Item("copies", copies, "gradients side by side, while they travel: after backward", after=True)] if ranks > 1 else []
    if engine.stage == 0:
        copies = engine.number * min(found.learnt, FLATTENED)
        return [Item("copies", copies, "gradients side by side, while they travel: after backward", after=True)]
    twice = 2 if engine.overlap and engine.stage < 3 else 1
    return [Item("buckets", twice * engine.number * engine.bucket, f"{twice} x engine.reduce_bucket")]


def relation_mode(recipe: Recipe, ranks: int, width: int) -> Mode:
    """How relations will be computed, and why; `width` is E."""
    return choose(_tiling(recipe).mode, rows=recipe.batch // ranks, width=width, bytes_each=_operand(recipe), size=ranks)


def relation(recipe: Recipe, ranks: int, width: int, *, gpu: bool) -> list[Item]:
    """What comparing the embeddings of all ranks holds on one."""
    mode, rows, each = relation_mode(recipe, ranks, width), recipe.batch // ranks, _operand(recipe)
    features = 3 * rows * width
    resident = {"row": ranks, "pair": ranks, "ring": 3}.get(mode.name, mode.files + ranks // mode.files)
    block = even(rows, _tiling(recipe).block or (4096 if gpu else 512))
    sums = 4 * rows * width * (1 if mode.name in ("row", "ring") else mode.files + ranks * (mode.name == "pair"))
    return [
        Item("features", resident * features * each, f"of {resident} x {rows} rows: mode {mode.name}"),
        Item("my features", features * (4 + each), "normalised, and as they are multiplied"),
        Item("tiles", TILES * 4 * block * block, f"of {block} x {block}"),
        Item("their gradient", sums, "added up in float32"),
    ]


def sent(found: Census, recipe: Recipe, ranks: int, width: int) -> list[Message]:
    """What a rank sends in a step: a sum over ranks takes 2 (W - 1) / W of its bytes, gathering and scattering (W - 1) / W (rings)."""
    if ranks == 1:
        return []
    engine, part = Engine.of(recipe), (ranks - 1) / ranks
    gradients = engine.number * (found.learnt - (found.linear / 2 if engine.half else 0))
    buckets = max(1.0, found.learnt / engine.bucket)
    if engine.stage < 3:
        out = [Message("gradients", 2 * part * gradients, "summed over ranks", buckets, engine.overlap)]
        if engine.stage > 0:
            out.append(
                Message("weights", part * engine.number * found.parameters, "gathered after the optimiser moved its share", buckets, False)
            )
    else:
        times = gathers(found, recipe, ranks)
        weights = engine.number * (found.parameters - (found.linear / 2 if engine.half else 0))
        out = [
            Message("gradients", part * gradients, "scattered to their owners", buckets, engine.overlap),
            Message("weights", times * part * weights, f"gathered {times:.3g} times: engine.live", times * 2 * max(found.blocks, 1), True),
        ]
    return out + _of_relation(recipe, ranks, width)


def gathers(found: Census, recipe: Recipe, ranks: int) -> float:
    """How often ZeRO-3 gathers all weights in a step: once, where they fit into `live`; else again for what does not."""
    engine = Engine.of(recipe)
    parts = 1 if not engine.chunk else -(-recipe.batch // ranks // engine.chunk)
    again = 3 * parts if parts > 1 else 3 if getattr(recipe.student, "recompute", False) else 2
    return 1 + (again - 1) * max(0.0, 1 - engine.live / found.parameters)


def _of_relation(recipe: Recipe, ranks: int, width: int) -> list[Message]:
    mode, rows, each = relation_mode(recipe, ranks, width), recipe.batch // ranks, _operand(recipe)
    mine = 3 * rows * width * each
    others = ranks - 1 if mode.name != "grid" else mode.files - 1 + ranks // mode.files - 1
    if mode.name == "ring":
        # Every sweep goes round: the sums, and the gradient.
        out = [Message("features", 2 * (ranks - 1) * mine, "round the ring twice", 6 * (ranks - 1), True)]
    else:
        out = [Message("features", others * mine, f"gathered: mode {mode.name}", 3, False)]
    if mode.name in ("pair", "grid"):
        owners = ranks if mode.name == "pair" else mode.files
        out.append(Message("their gradient", (owners - 1) * rows * width * 4, "scattered to its owners", 1, False))
    # Round a ring, sums take one step more: the one that brings them home.
    carried = rows * (SUMS * (ranks if mode.name == "ring" else others) + NUMBERS * others)
    return [*out, Message("sums", carried, "of rows and columns, and what they need", 8, False)]


def _tiling(recipe: Recipe) -> Tiling:
    return getattr(recipe.objective, "tiling", Tiling())


def _operand(recipe: Recipe) -> int:
    """Bytes of a number of a feature, as it travels."""
    asked = _tiling(recipe).operands
    precision = getattr(recipe.engine, "precision", "fp32")
    return {"float32": 4, "bfloat16": 2}.get(asked) or {"bf16": 2, "fp64": 8}.get(precision, 4)
