"""`mrdist scale`: one recipe over sizes, objectives, fractions and seeds; a table, a law and a figure at the end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mrdist.cli.lacking import refuse
from mrdist.cli.launching import LOCAL, LOG, launcher
from mrdist.cli.main import DONE, YOURS, Flags
from mrdist.cli.screen import Screen
from mrdist.errors import RecipeError
from mrdist.progress import duration
from mrdist.recipe import Recipe, fingerprint
from mrdist.scaling.findings import as_json, found, table, write
from mrdist.scaling.grid import Cell, Experiment, read
from mrdist.scaling.results import Result, collect, flops_per_sample

PAPER = 1024
"""E, of an embedding, where no teacher has been asked yet: what flops on paper stand on."""
USAGE = "RECIPE [launcher=local|slurm|ray] [jobs=K] [launcher.key=value ...] [key=value ...] [grid.key=value ...]"


def scale(words: Sequence[str], flags: Flags) -> int:
    """Train what is not done yet of a grid, then collect, fit and draw; the same command goes on from wherever it stopped.

    launcher=local       who starts the runs: this machine, slurm or ray
    jobs=K               runs at once
    launcher.site=NAME   of slurm: also launcher.nodes, .gpus and .hours, as in mrdist submit; of ray: launcher.cores and .gpus of each run
    key=value            changes the recipe of all runs; grid.key=value the grid
    --dry-run            lists the runs, with their flops
    """
    if not words or "=" in words[0]:
        raise RecipeError(what="mrdist scale", got=" ".join(words) or "nothing", wanted=USAGE, try_="mrdist scale scaling/backbone jobs=2")
    changes, name, told = _told(words[1:])
    launch = launcher(name)
    experiment = read(words[0], changes)
    for cell in experiment.cells:
        refuse(cell.recipe)
    if flags.dry_run:
        print(_listed(experiment))
        return DONE
    for cell in experiment.cells:
        cell.begin()
    left = [cell for cell in experiment.cells if not cell.done]
    if left:
        if name == LOCAL:
            _prepare(left, Screen(quiet=flags.quiet))
        board = Board(experiment, quiet=flags.quiet)
        launch([cell.folder for cell in left], told, board)
        board(last=True)
    return _conclude(experiment, words, flags)


def _told(words: Sequence[str]) -> tuple[list[str], str, dict[str, str]]:
    """Changes of the recipe and its grid; the launcher's name; what it is told."""
    changes, name, told = [], LOCAL, dict[str, str]()
    for word in words:
        key, _, value = word.partition("=")
        if key == "launcher":
            name = value
        elif key == "jobs" or key.startswith("launcher."):
            told[key.removeprefix("launcher.")] = value
        else:
            changes.append(word)
    return changes, name, told


def _preparation(recipe: Recipe) -> str:
    """Equal for recipes that are prepared into the same store, views and triplets."""
    return fingerprint(
        [recipe.store, recipe.points, *(fingerprint(part) for part in (recipe.data, recipe.views, recipe.limits, recipe.teacher))]
    )


def _prepare(cells: Sequence[Cell], screen: Screen) -> None:
    """Once for all runs that share it; they find it done."""
    from mrdist.prepare import prepare

    for recipe in {_preparation(cell.recipe): cell.recipe for cell in cells}.values():
        prepare(recipe, screen)


def _conclude(experiment: Experiment, words: Sequence[str], flags: Flags) -> int:
    """Write down what is there; say what is missing."""
    done, missing = ([cell for cell in experiment.cells if cell.done is wanted] for wanted in (True, False))
    if done:
        held = found(experiment.name, _results(done, experiment), experiment.grid)
        files = write(held, experiment.grid, experiment.folder)
        print(json.dumps(as_json(held)) if flags.json else table(held, experiment.grid) + "\n" + "\n".join(map(str, files)))
    for cell in missing:
        print(f"not done: {cell.folder}: {_why(cell.folder)}", file=sys.stderr)
    if missing:
        print(f"{len(missing)} of {len(experiment.cells)} runs are not done; to go on: mrdist scale {' '.join(words)}", file=sys.stderr)
    return YOURS if missing else DONE


def _results(cells: Sequence[Cell], experiment: Experiment) -> list[Result]:
    from mrdist.prepare import open_prepared

    facts: dict[str, tuple[int, int]] = {}
    out = []
    for cell in cells:
        key = _preparation(cell.recipe)
        if key not in facts:
            store = open_prepared(cell.recipe).store
            facts[key] = store.width, len(store.indices("train"))
        width, shapes = facts[key]
        out.append(collect(cell, experiment.grid, width=width, shapes=shapes))
    return out


def _why(folder: Path) -> str:
    """The last thing that a run said."""
    for name in ("why.txt", LOG):
        if (folder / name).is_file() and (said := (folder / name).read_text(errors="replace").strip()):
            return f"{said.splitlines()[0 if name == 'why.txt' else -1]} ({folder / name})"
    return "it never began"


def _listed(experiment: Experiment) -> str:
    """What would run, with what it costs on paper."""
    lines = [f"{experiment.name}: {len(experiment.cells)} runs below {experiment.folder}/"]
    for cell in experiment.cells:
        recipe = cell.recipe
        flops = flops_per_sample(recipe, PAPER) * recipe.batch * recipe.steps
        state = "done" if cell.done else "to do"
        lines.append(f"  {cell.folder.name:<32} {recipe.steps:>7,} steps of {recipe.batch:,}   {flops:.3g} flops   {state}")
    lines.append(f"flops are on paper, at an embedding width of {PAPER}")
    return "\n".join(lines)


class Board:
    """One line for all runs: how many are done, steps, time left."""

    def __init__(self, experiment: Experiment, *, quiet: bool = False, interval: float = 10.0) -> None:
        self.experiment, self.quiet = experiment, quiet
        self.live = sys.stderr.isatty()
        self.interval = 1.0 if self.live else interval
        self.began, self.said = time.monotonic(), 0.0
        self.before = {cell.folder: taken(cell)[0] for cell in experiment.cells}

    def __call__(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if self.quiet or (now - self.said < self.interval and not last):
            return
        self.said = now
        cells = self.experiment.cells
        seen = {cell.folder: taken(cell) for cell in cells}
        pace = self._pace(seen)
        fresh = sum(pace[cell.size] * (seen[cell.folder][0] - self.before[cell.folder]) for cell in cells)
        ahead = sum(pace[cell.size] * (cell.recipe.steps - seen[cell.folder][0]) for cell in cells)
        left = f"left {duration((now - self.began) / fresh * ahead)}" if fresh > 0 else ""
        done, steps = sum(cell.done for cell in cells), sum(number for number, _ in seen.values())
        line = f"{self.experiment.name:<24} {done}/{len(cells)} runs  {steps:,}/{sum(c.recipe.steps for c in cells):,} steps  {left}"
        end = "\n" if last or not self.live else ""
        print(f"\r\033[K{line}" if self.live else line, end=end, file=sys.stderr, flush=True)

    def _pace(self, seen: Mapping[Path, tuple[int, float]]) -> dict[str, float]:
        """Seconds per step by size; of sizes that have taken none, in proportion to the flops of the largest that has."""
        flops = {cell.size: flops_per_sample(cell.recipe, PAPER) * cell.recipe.batch for cell in self.experiment.cells}
        known: dict[str, float] = {}
        for cell in self.experiment.cells:
            if seconds := seen[cell.folder][1]:
                known[cell.size] = seconds
        largest = max(known, key=lambda size: flops[size], default=None)
        each = known[largest] / flops[largest] if largest else 1.0
        return {size: known.get(size, each * number) for size, number in flops.items()}


def taken(cell: Cell, tail: int = 1 << 16) -> tuple[int, float]:
    """Steps that a run has taken, and seconds per step of late; from the end of a file that may be long."""
    metrics, lines = cell.folder / "metrics.jsonl", list[dict[str, Any]]()
    if metrics.is_file():
        with metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - tail))
            for line in file.read().splitlines():
                with suppress(ValueError):  # cut off in front, or not whole yet
                    lines.append(json.loads(line))
    steps = cell.recipe.steps if cell.done else lines[-1]["step"] if lines else 0
    return int(steps), sum(line["seconds"] for line in lines) / max(len(lines), 1)
