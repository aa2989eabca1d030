"""How much would fit, and what to change where a plan does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any, cast

from mrdist.errors import RecipeError
from mrdist.recipe import Recipe
from mrdist.site import Allocation
from mrdist.training import costs
from mrdist.training.costs import Engine
from mrdist.training.plan import GIB, Look, Plan, activations, plan, together
from mrdist.training.zero import ZeroConfig

Job = tuple[Recipe, Allocation]
Step = tuple[str, Callable[[Job], Job]]
"""A word that one types, and what it changes; no word, no change."""

STAY: Step = ("", lambda job: job)


def most_rows(of: Plan) -> int:
    """The most rows per rank that would fit, relations as wide as they then are; 0 if not even one does."""

    def fits(rows: int) -> bool:
        recipe = replace(of.recipe, batch=rows * of.allocation.ranks)
        ranks = of.allocation.ranks
        passing = activations(recipe, ranks, rows, of.width, of.footprint, of.assumptions)
        passing += costs.relation(recipe, ranks, of.width, gpu=of.allocation.device.name != "core")
        inputs = [item._replace(bytes=item.bytes / of.rows * rows) for item in of.inputs]
        return together([*of.states, *inputs], passing) <= of.usable

    if not fits(1):
        return 0
    below, above = 1, 2
    while fits(above) and above < 1 << 20:
        below, above = above, 2 * above
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below


def change(of: Plan, *, look: Look | None = None) -> str | None:
    """The fewest and cheapest words that make it fit, as one would type them; None if none of those below do.

    In this order: recompute activations, a higher stage of ZeRO, smaller chunks, optimiser states in the node's memory, and, where all
    that is not enough, more nodes. None of them changes what is learnt.
    """
    directions = (_recompute(of), _stages(of), _chunks(of), _offload(of), _nodes(of))
    ways = product(*(range(len(steps)) for steps in directions))
    for way in sorted(ways, key=lambda way: (way[-1], sum(level > 0 for level in way), way[::-1])):
        steps = [steps[level] for steps, level in zip(directions, way, strict=True)]
        job: Job = of.recipe, of.allocation
        for _, apply in steps:
            job = apply(job)
        if any(way) and _allowed(job) and plan(*job, width=of.width, look=look, assumptions=of.assumptions).fits:
            return " ".join(word for word, _ in steps if word)
    return None


def _allowed(job: Job) -> bool:
    recipe, allocation = job
    try:
        cast(Any, recipe.engine).check(recipe)
    except RecipeError:
        return False
    return recipe.batch % allocation.ranks == 0


def _recompute(of: Plan) -> list[Step]:
    if getattr(of.recipe.student, "recompute", True):
        return [STAY]
    return [STAY, ("student.recompute=true", lambda job: _with(job, "student", recompute=True))]


def _stages(of: Plan) -> list[Step]:
    def to(stage: int) -> Step:
        def apply(job: Job) -> Job:
            if isinstance(job[0].engine, ZeroConfig):
                return _with(job, "engine", stage=stage)
            kept = {name: getattr(job[0].engine, name) for name in ("precision", "chunk") if hasattr(job[0].engine, name)}
            return replace(job[0], engine=ZeroConfig(stage=stage, **kept)), job[1]

        return (f"engine.stage={stage}" if isinstance(of.recipe.engine, ZeroConfig) else f"engine=zero{stage}"), apply

    return [STAY, *(to(stage) for stage in range(max(Engine.of(of.recipe).stage, 0) + 1, 4) if of.allocation.ranks > 1)]


def _chunks(of: Plan) -> list[Step]:
    def to(chunk: int) -> Step:
        return f"engine.chunk={chunk}", lambda job: _with(job, "engine", chunk=chunk)

    halves = (of.rows >> k for k in range(1, of.rows.bit_length()))
    return [STAY, *(to(chunk) for chunk in halves if chunk < (Engine.of(of.recipe).chunk or of.rows))]


def _offload(of: Plan) -> list[Step]:
    if Engine.of(of.recipe).offload:
        return [STAY]

    def apply(job: Job) -> Job:
        return _with(job, "engine", offload="cpu") if isinstance(job[0].engine, ZeroConfig) else job

    return [STAY, ("engine.offload=cpu", apply)]


def _nodes(of: Plan) -> list[Step]:
    def to(nodes: int) -> Step:
        return f"nodes={nodes}", lambda job: (job[0], replace(job[1], nodes=nodes))

    return [STAY, *(to(of.allocation.nodes << k) for k in range(1, 6))]


def _with(job: Job, part: str, **changes: Any) -> Job:
    recipe, allocation = job
    return replace(recipe, **{part: replace(getattr(recipe, part), **changes)}), allocation


def refuse(of: Plan, *, look: Look | None = None) -> None:
    """Raises RecipeError, with the smallest change that would do, where the plan does not fit."""
    if of.fits:
        return
    place = f"{of.allocation.nodes} x {of.allocation.per_node} {of.allocation.device.name}"
    if of.needed > of.usable:
        got, wanted = f"{of.needed / GIB:.1f} GiB per rank", f"at most {of.usable / GIB:.1f} GiB of {of.allocation.device.memory:g}"
    else:
        got, wanted = f"{of.host_needed / GIB:.0f} GiB in each node's own memory", f"at most {of.allocation.host:g} GiB"
    try_ = change(of, look=look) or "a smaller student or batch: nothing that keeps what is learnt is enough"
    raise RecipeError(what=f"{of.recipe.name} on {place}", got=got, wanted=wanted, try_=try_)
