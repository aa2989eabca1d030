"""`mrdist submit`: the bill, then the run folder, then the queue; several runs as one array."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mrdist.cli.evaluate import is_run
from mrdist.cli.lacking import refuse
from mrdist.cli.main import DONE, Flags
from mrdist.errors import RecipeError
from mrdist.presets import layers, presets
from mrdist.recipe import Recipe, load, plain, to_yaml
from mrdist_cluster import slurm, sweep
from mrdist_cluster.begin import is_prepared
from mrdist_cluster.cli.jobs import runs_folder
from mrdist_cluster.order import KEYS, OPTIONS, WORDS, Order, number
from mrdist_cluster.runs import find, listed
from mrdist_cluster.standing import standing

if TYPE_CHECKING:
    from mrdist.site import Allocation
    from mrdist.training.plan import Plan

USAGE = "RECIPE|RUN [site=NAME] [nodes=N] [gpus=N] [hours=H] [parallel=N] [width=N] [key=value ...] [key=a,b,c ...]"


def submit(words: Sequence[str], flags: Flags) -> int:
    """Plan every run, make its folder, hand all of them over; a run folder, or the end of its name, goes on.

    site=NAME        where jobs go: a name in configs/site, a YAML file, or local: this machine, in the background
    nodes=1 gpus=N   of each run; all GPUs of a node, unless fewer are said
    hours=H          of a job, which goes back to the queue until its run is done; the site's longest
    key=a,b          several runs, as one array; of them parallel=256 at once
    width=N          of the teacher's embeddings, where nothing at hand says it
    --dry-run        the bill, and the text that sbatch would get

    Raises:
        RecipeError: a run contradicts itself or does not fit, or the site has not what is asked for; nothing was submitted then.
        SlurmError: this is a job already, or Slurm refuses.
    """
    if not words or words[0].startswith("-"):
        raise RecipeError(what="mrdist submit", got=" ".join(words) or "nothing", wanted=USAGE, try_="mrdist submit --help")
    slurm.refuse_inside(os.environ)
    source, changes = _meant(words), [word for word in words[1:] if _key(word) not in (*WORDS, *KEYS, *OPTIONS, "parallel", "width")]
    own = {_key(word): word.partition("=")[2] for word in words[1:] if word not in changes}
    width = int(number("width", own.pop("width"))) if "width" in own else None
    order = Order.of(own, parallel=int(number("parallel", own.pop("parallel", "256"))))
    chosen = sweep.runs(changes)
    recipes = [load(source, some) for some in chosen]
    if is_run(source):
        _refuse_twice(Path(source), recipes)
    for recipe in recipes:
        refuse(recipe, Path(source) if is_run(source) else None)
    bills = [_bill(recipe, order.allocation, width) for recipe in recipes]
    if not flags.quiet and not flags.json:
        _show(bills)
        for recipe, some in zip(recipes, chosen, strict=True):
            if not recipe.live and not is_prepared(replace(recipe, redraw=0)):
                before = shlex.join(["mrdist", "prepare", source, *some])
                print(f"prepare   not all is prepared: the ranks begin with it, and what they reserved waits. Before: {before}")
                break
    if unheard := order.unheard(os.environ):
        option = unheard[0].removeprefix("SBATCH_").lower().replace("_", "-")
        print(f"not handed on: {', '.join(unheard)}; the site may say it: sbatch: {{{option}: ...}}", file=sys.stderr)
    folder, name = Path(recipes[0].runs) / ".submitted", recipes[0].name.replace("/", "-")
    if flags.dry_run:
        print(f"would start {order.allocation.ranks} ranks here" if order.local else order.script(len(recipes), folder.resolve(), name))
        return DONE
    runs = [_begin(recipe, Path(source) if is_run(source) else None) for recipe in recipes]
    given = order.send(runs, folder.resolve(), name)
    if flags.json:
        print(json.dumps([{"job": one.job, "run": str(run)} for one, run in zip(given, runs, strict=True)], indent=1))
        return DONE
    windows = math.ceil(bills[0].hours / order.allocation.hours) if order.allocation.hours else 1
    for one, run in zip(given, runs, strict=True):
        print(f"job {one.job} · {_size(order)} · {_windows(order, windows)}{run}")
    short = runs[0].name[-4:] if len(runs) == 1 and "-" not in runs[0].name[-4:] else runs[0].name
    print(f"follow: mrdist logs {short} follow=true        all: mrdist jobs        stop: mrdist jobs cancel {short}")
    return DONE


def _meant(words: Sequence[str]) -> str:
    """The recipe or run folder of the first word; a run also by the end of its name, as the other verbs take it."""
    _, root = runs_folder(words)
    source = words[0]
    if is_run(source) or source.endswith((".yaml", ".yml")) or source in presets("recipe"):
        return source
    return str(find(source, root)) if any(run.name.endswith(source) for run in listed(root)) else source


def _key(word: str) -> str:
    return word.partition("=")[0]


def _refuse_twice(folder: Path, recipes: Sequence[Recipe]) -> None:
    """A run folder is one run, of one recipe, in one job."""
    from mrdist.training.folder import differences

    if len(recipes) > 1:
        raise RecipeError(
            what=str(folder), got=f"{len(recipes)} recipes for one run", wanted="one", try_="a recipe instead of a run folder"
        )
    if changed := differences(layers(folder), plain(recipes[0])):
        raise RecipeError(
            what=str(folder), got=", ".join(changed), wanted="the recipe of this run", try_="a recipe instead of a run folder"
        )
    queue = slurm.queue()
    run = standing(folder, queue)
    if run.under_way:
        who = f"job {run.job.job}" if run.job is not None and run.job.job in queue else "the run"
        raise RecipeError(
            what=str(folder), got=f"{who} is {run.state}", wanted="a run that no job works on", try_=f"mrdist jobs cancel {folder}"
        )


def _bill(recipe: Recipe, allocation: Allocation, width: int | None) -> Plan:
    """What a recipe costs on the allocation; counted, not measured: this may be a login node."""
    from mrdist.cli.plan import here
    from mrdist.training import fitting
    from mrdist.training.feed import teacher_width
    from mrdist.training.plan import on_paper, plan

    width = width or teacher_width(recipe)
    if width is None:
        raise RecipeError(what="teacher", got="embeddings of unknown length", wanted="its width", try_="width=1024")
    if allocation.site == "local":
        allocation = replace(allocation, device=here())
    bill = plan(recipe, allocation, width=width, look=on_paper)
    fitting.refuse(bill, look=on_paper)
    return bill


def _show(bills: Sequence[Plan]) -> None:
    from mrdist.cli.plan import screen
    from mrdist.progress import significant

    print("\n".join(screen(bills[0])))
    if len(bills) > 1:
        hours = sum(bill.hours * bill.allocation.ranks for bill in bills)
        print(f"{len(bills)} runs like this one: {significant(hours)} hours of {bills[0].allocation.device.name} in all")


def _begin(recipe: Recipe, folder: Path | None) -> Path:
    """The run folder, with its recipe: from now on the folder is the recipe."""
    from mrdist.cli.train import new_folder
    from mrdist.training.folder import replace_text

    folder = folder or new_folder(recipe)
    replace_text(folder / "recipe.yaml", to_yaml(recipe))
    return folder


def _size(order: Order) -> str:
    nodes, ranks = order.allocation.nodes, order.allocation.per_node
    return f"{nodes} node{'s' * (nodes > 1)} x {ranks} rank{'s' * (ranks > 1)}"


def _windows(order: Order, windows: int) -> str:
    hours = order.allocation.hours
    return f"{hours:g} h, goes back to the queue by itself ({windows} window{'s' * (windows > 1)} expected) · " if hours else ""
