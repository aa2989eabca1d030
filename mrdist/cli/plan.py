"""`mrdist plan`: the bill, before anything is spent; and the same recipe on paper from 8 to 1,024 devices."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mrdist.cli.contradictions import contradictions
from mrdist.cli.main import DONE, Flags
from mrdist.errors import RecipeError
from mrdist.progress import duration
from mrdist.recipe import Recipe, load, plain
from mrdist.site import Allocation, Device, read

if TYPE_CHECKING:
    from mrdist.training.footprint import Footprint
    from mrdist.training.plan import Plan

OWN = ("site", "nodes", "gpus", "memory", "shapes", "width")
"""Words that are of the plan, not of the recipe."""

USAGE = "RECIPE [site=NAME] [nodes=N] [gpus=N] [memory=GIB] [shapes=N] [key=value ...] [--measure | --no-measure] [--scale FEW MANY]"

PATIENCE = 3e11
"""Flop that a processor is asked for to measure a step: some seconds."""


def plan(words: Sequence[str], flags: Flags) -> int:
    """Print what a recipe costs on an allocation.

    Raises:
        RecipeError: it contradicts itself, cannot be shared, or does not fit; with the smallest change that would do.
    """
    words, asked, scale = _flags(list(words))
    if not words:
        raise RecipeError(what="mrdist plan", got="nothing", wanted=USAGE, try_="mrdist plan smoke")
    own = dict(word.split("=", 1) for word in words[1:] if word.split("=", 1)[0] in OWN and "=" in word)
    recipe = load(words[0], [word for word in words[1:] if word.split("=", 1)[0] not in OWN])
    if problems := contradictions(recipe):
        raise problems[0]
    numbers = {name: _number(name, value) for name, value in own.items() if name != "site"}
    from mrdist.training.feed import teacher_width

    width = numbers.get("width") or teacher_width(recipe)
    if width is None:
        got = f"{getattr(recipe.teacher, 'model', recipe.teacher.kind)}, whose embeddings are of unknown length"
        raise RecipeError(what="teacher", got=got, wanted="its width", try_="width=1024")
    site = read(own.get("site", "local"))
    allocation = site.allocation(nodes=numbers.get("nodes"), gpus=numbers.get("gpus"), memory=numbers.get("memory"))
    if site.name == "local" and "memory" not in numbers:
        allocation = dataclasses.replace(allocation, device=here())
    if scale is not None:
        print(table(recipe, allocation, scale, width=width))
        return DONE
    return _one(recipe, allocation, width, shapes=numbers.get("shapes", 0), asked=asked, flags=flags)


def _one(recipe: Recipe, allocation: Allocation, width: int, *, shapes: int, asked: bool | None, flags: Flags) -> int:
    from mrdist.training import fitting
    from mrdist.training.plan import plan as bill

    def look(recipe: Recipe, width: int) -> Footprint:
        return _look(recipe, width, asked)

    found = bill(recipe, allocation, width=width, shapes=shapes, look=look)
    if flags.json:
        print(json.dumps(as_json(found), indent=1))
    else:
        print("\n".join(screen(found)))
    fitting.refuse(found, look=look)
    return DONE


def here() -> Device:
    """What this machine computes on: its first GPU, or its cores and memory."""
    import os

    import torch

    from mrdist.site import DEVICES

    if not torch.cuda.is_available():
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        return dataclasses.replace(DEVICES["core"], memory=round(memory, 1))
    about = torch.cuda.get_device_properties(0)
    known = next((d for name, d in DEVICES.items() if name in about.name.lower()), DEVICES["a100"])
    return dataclasses.replace(known, memory=round(about.total_memory / 2**30, 1))


def _look(recipe: Recipe, width: int, asked: bool | None) -> Footprint:
    """Measured, where that was asked for, or where it takes seconds on the device the recipe names; else counted."""
    import torch

    from mrdist.ranks import this_device
    from mrdist.training.footprint import FEW, measured
    from mrdist.training.plan import on_paper

    paper = on_paper(recipe, width)
    device = this_device(recipe.device)
    if asked is False or (asked is None and device.type == "cpu" and 4 * sum(FEW) * paper.flops > PATIENCE):
        return paper
    student: Any = recipe.student
    try:
        return measured(student, width=width, points=recipe.sample, precision=getattr(recipe.engine, "precision", "fp32"), device=device)
    except torch.OutOfMemoryError:
        return paper


def screen(plan: Plan) -> Iterable[str]:
    """The bill, a line for each thing, each with its reason."""
    recipe, where, student = plan.recipe, plan.allocation, plan.recipe.student
    yield f"{recipe.name} on {where.nodes} x {where.per_node} {where.device.name} of {where.device.memory:g} GiB" + (
        f" (site {where.site})" if where.site else ""
    )
    yield _line(
        "student", f"{student.kind}, {plan.census.parameters / 1e6:,.1f} M parameters", f"teacher {plan.feed.teacher}, E = {plan.width}"
    )
    width = f"{recipe.batch} = {where.ranks} ranks x {plan.rows}: every relation is {recipe.batch} wide"
    yield _line("batch", width, f"mode {plan.mode.name}: {plan.mode.why}")
    yield from _memory(plan)
    yield from _items("sent", "per rank and step", [(m.what, m.bytes, m.why) for m in plan.sent], "nothing: one rank")
    yield from _time(plan)
    yield from _feed(plan)
    yield from _items("disk", "", [item[:3] for item in plan.disk], "")
    if plan.fits:
        yield "ok: it fits, and nothing contradicts"


def _memory(plan: Plan) -> Iterable[str]:
    from mrdist.training.fitting import most_rows

    parts = {"states": plan.states, "activations": plan.activations, "relation": plan.relation, "inputs": plan.inputs}
    bytes_of = {name: sum(i.bytes for i in items if not i.after) for name, items in parts.items()}
    copies = sum(i.bytes for i in plan.states if i.after)
    if copies > bytes_of["activations"] + bytes_of["relation"]:  # then backward is not the worst moment
        bytes_of = {"states": bytes_of["states"], "copies": copies, "inputs": bytes_of["inputs"]}
    sums = " + ".join(f"{name} {_size(size)}" for name, size in bytes_of.items())
    fits = f"fits; up to {most_rows(plan)} rows per rank" if plan.needed <= plan.usable else "does not fit"
    of = f"of {_size(plan.usable)} ({plan.assumptions.usable:.0%} of the device)"
    yield _line("memory", f"{sums} = {_size(plan.needed)} {of}", fits)
    for items in parts.values():
        yield from (_below(*item[:3]) for item in items)
    if plan.host:
        has = f"{plan.allocation.host:g} GiB" if plan.allocation.host else "of which nobody said how much there is"
        yield _line("node", f"{_size(plan.host_needed)} of its own memory, {has}", f"{plan.allocation.per_node} x")
        yield from (_below(*item[:3]) for item in plan.host)


def _time(plan: Plan) -> Iterable[str]:
    s, a = plan.seconds, plan.assumptions
    measured = plan.footprint.seconds is not None
    how = plan.footprint.how if measured else f"{plan.footprint.flops / 1e9:,.4g} Gflop a row at {a.matrix:.0%} of the device's rate"
    total, limit = plan.hours, plan.allocation.hours
    windows = f"; site allows {limit:g} h: {-(-total // limit):.0f} jobs, each goes on from the last" if limit and total > limit else ""
    yield _line("time", f"{s.all:.3g} s a step x {plan.recipe.steps:,} = {duration(3600 * total)}, {plan.rate:,.0f} shapes/s{windows}", how)
    parts = f"student {s.student:.3g}, grouping {s.grouping:.3g}, relation {s.relation:.3g}, talking {s.talking:.3g} s"
    yield f"          {parts}: {plan.efficiency:.0%} of the time is computing"


def _feed(plan: Plan) -> Iterable[str]:
    f = plan.feed
    teachers = "an unknown number of devices" if f.teachers is None else f"{f.teachers:,.1f} {plan.allocation.device.name}"
    again = plan.recipe.redraw
    why = f"while views are new: in one epoch of {again}" if again else "only while views are new: later epochs read them"
    yield _line("feed", f"{f.shapes:,.0f} shapes/s = {f.views:,.0f} views/s: {f.renderers:,} cores render, {teachers} teach", why)


def _items(name: str, what: str, items: Iterable[tuple[str, float, str]], nothing: str) -> Iterable[str]:
    items = list(items)
    if not items:
        yield _line(name, nothing, "")
        return
    yield _line(name, f"{_size(sum(size for _, size, _ in items))} {what}".strip(), "")
    yield from (_below(*item) for item in items)


def _line(name: str, value: str, why: str) -> str:
    return f"{name:<9} {value}" + (f"   {why}" if why else "")


def _below(what: str, size: float, why: str) -> str:
    return f"          {_size(size):>10}  {what}: {why}"


def _size(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 0.095 * 2**30 else f"{count / 2**20:.1f} MiB"


def table(recipe: Recipe, allocation: Allocation, scale: tuple[int, int], *, width: int) -> str:
    """The recipe on paper on more and more devices, with as many rows on each as on the fewest."""
    from mrdist.training.plan import plan as bill

    few, many = scale
    if recipe.batch % few:
        raise RecipeError(
            what="batch", got=recipe.batch, wanted=f"a multiple of {few} ranks", try_=f"batch={max(1, recipe.batch // few) * few}"
        )
    per_node = min(few, allocation.per_node)
    lines = [
        f"{recipe.name}, {recipe.batch // few} rows per rank, on {allocation.device.name} in nodes of {per_node}: on paper",
        f"{'ranks':>6} {'relation':>9} {'mode':>5} {'GiB/rank':>9} {'sent GiB':>9} {'s/step':>7} {'talking':>8} {'shapes/s':>9} "
        f"{'views/s':>9} {'cores':>8} {'teachers':>9} {'efficiency':>11}",
    ]
    ranks, plans = few, []
    while ranks <= many:
        nodes = -(-ranks // per_node)
        where = dataclasses.replace(allocation, nodes=nodes, per_node=per_node)
        plans.append(bill(dataclasses.replace(recipe, batch=recipe.batch // few * where.ranks), where, width=width))
        ranks *= 2
    for p in plans:
        sent = sum(m.bytes for m in p.sent) / 2**30
        teachers = "?" if p.feed.teachers is None else f"{p.feed.teachers:,.1f}"
        lines.append(
            f"{p.allocation.ranks:>6} {p.recipe.batch:>9,} {p.mode.name:>5} {p.needed / 2**30:>9.1f} {sent:>9.2f} {p.seconds.all:>7.3f} "
            f"{p.seconds.talking:>8.3f} {p.rate:>9,.0f} {p.feed.views:>9,.0f} {p.feed.renderers:>8,} {teachers:>9} "
            f"{p.efficiency:>11.0%}" + ("" if p.fits else "  does not fit")
        )
    return "\n".join([*lines, "", *_assumed(plans[0])])


def _assumed(plan: Plan) -> Iterable[str]:
    """What the table stands on: every field with what its class says of it."""
    from mrdist.training.feed import Kitchen

    where, device = plan.allocation, plan.allocation.device
    yield "stands on"
    yield f"  device    {device.name}: {device.memory:g} GiB, {device.bf16:g} Tflop/s in bf16, {device.fp32:g} in fp32"
    yield f"  network   {where.inside:g} GB/s per rank inside a node, {where.between:g} between nodes (site {where.site or 'unnamed'})"
    yield f"  student   {plan.footprint.flops / 1e9:,.4g} Gflop a row, {plan.footprint.how}"
    for held in (plan.assumptions, Kitchen()):
        for name, meaning in _docs(type(held)).items():
            yield f"  {name} = {getattr(held, name):g}: {meaning}"


def _docs(owner: type) -> dict[str, str]:
    """The string under each field of a dataclass."""
    import ast
    import inspect
    import textwrap

    (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(body, ast.ClassDef)
    pairs = zip(body.body, body.body[1:], strict=False)
    return {
        field.target.id: " ".join(str(text.value.value).split())
        for field, text in pairs
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def as_json(plan: Plan) -> dict[str, Any]:
    """For machines: the numbers of the screen, by name."""
    items = ("states", "activations", "relation", "inputs", "host", "disk")
    return {
        "recipe": plain(plan.recipe),
        "allocation": dataclasses.asdict(plan.allocation),
        "assumptions": dataclasses.asdict(plan.assumptions),
        "parameters": plan.census.parameters,
        "rows": plan.rows,
        "mode": plan.mode.name,
        "memory": {name: {item.what: item.bytes for item in getattr(plan, name)} for name in items},
        "needed": plan.needed,
        "usable": plan.usable,
        "fits": plan.fits,
        "sent": {message.what: message.bytes for message in plan.sent},
        "seconds": {**dataclasses.asdict(plan.seconds), "all": plan.seconds.all},
        "hours": plan.hours,
        "feed": dataclasses.asdict(plan.feed),
        "footprint": plan.footprint.how,
    }


def _flags(words: list[str]) -> tuple[list[str], bool | None, tuple[int, int] | None]:
    """The words, whether to measure (None: where it is quick), and the first and last number of ranks of a table."""
    scale = None
    if "--scale" in words:
        at = words.index("--scale")
        ends = words[at + 1 : at + 3]
        if len(ends) < 2 or not all(end.isdigit() for end in ends) or not 1 <= int(ends[0]) <= int(ends[1]):
            raise RecipeError(what="--scale", got=" ".join(ends) or "nothing", wanted="two numbers of ranks", try_="--scale 8 1024")
        scale = int(ends[0]), int(ends[1])
        words = words[:at] + words[at + 3 :]
    asked = True if "--measure" in words else False if "--no-measure" in words else None
    words = [word for word in words if word not in ("--measure", "--no-measure")]
    if stray := [word for word in words if word.startswith("-")]:
        raise RecipeError(what=stray[0], got="no such flag", wanted=USAGE, try_="mrdist --help")
    return words, asked, scale


def _number(name: str, value: str) -> Any:
    if value.replace(".", "", name == "memory").isdigit():
        return float(value) if name == "memory" else int(value)
    raise RecipeError(what=name, got=repr(value), wanted="a number", try_=f"{name}=8")
