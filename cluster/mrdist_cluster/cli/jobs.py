"""`mrdist jobs`: one line per run, whatever started it; `mrdist jobs cancel RUN`."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from mrdist.cli.main import DONE, Flags
from mrdist.errors import RecipeError
from mrdist.progress import duration, significant
from mrdist_cluster import slurm
from mrdist_cluster.runs import find, listed
from mrdist_cluster.standing import Standing, local_alive, standing

USAGE = "[cancel RUN] [runs=FOLDER]"
HEAD = ("job", "state", "step", "loss", "shapes/s", "left", "saved", "run")


def jobs(words: Sequence[str], flags: Flags) -> int:
    """How all runs stand, whatever started them, the youngest last; or end one for good.

    cancel RUN    a run folder, or any part of its name that no other has
    runs=FOLDER   where run folders are; runs
    --json        a list of rows

    Raises:
        RecipeError: a word that means nothing, or no such run.
        SlurmError: Slurm refuses.
    """
    words, root = runs_folder(words)
    if words[:1] == ["cancel"] and len(words) == 2:
        print(_cancel(standing(find(words[1], root), slurm.queue()), dry_run=flags.dry_run))
        return DONE
    if words:
        raise RecipeError(what="mrdist jobs", got=" ".join(words), wanted=USAGE, try_="mrdist jobs --help")
    queue = slurm.queue()
    runs = [standing(folder, queue) for folder in listed(root)]
    if flags.json:
        print(json.dumps([dict(zip(HEAD, _row(run), strict=True)) for run in runs], indent=1))
        return DONE
    rows = [HEAD, *(_row(run) for run in runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not runs:
        print(f"no runs in {root}; next: mrdist submit RECIPE site=NAME")
    return DONE


def runs_folder(words: Sequence[str]) -> tuple[list[str], Path]:
    """The other words, and the folder of run folders."""
    said = [word.removeprefix("runs=") for word in words if word.startswith("runs=")]
    return [word for word in words if not word.startswith("runs=")], Path(said[-1] if said else "runs")


def _row(run: Standing) -> tuple[str, ...]:
    ends = run.state in ("done", "failed", "stopped", "new")
    return (
        run.job.job if run.job is not None else "-",
        run.state + (f": {run.reason}" if run.state == "pending" and run.reason else ""),
        f"{run.step:,}/{run.steps:,}",
        "-" if run.loss is None else f"{run.loss:.3f}",
        "-" if run.rate is None or ends else significant(run.rate),
        "-" if run.left is None or ends else duration(run.left),
        f"{run.saved:,}" if run.saved else "-",
        str(run.folder),
    )


def _cancel(run: Standing, *, dry_run: bool) -> str:
    if not run.under_way:
        raise RecipeError(what=str(run.folder), got=f"a run that is {run.state}", wanted="one that is under way", try_="mrdist jobs")
    if dry_run:
        return f"would end {run.folder}"
    (run.folder / "stop").touch()  # it saves, if it is given the time
    if run.job is not None and run.job.local and local_alive(run.job):
        os.kill(int(run.job.job), signal.SIGTERM)
    elif run.job is not None and not run.job.local:
        slurm.cancel(run.job.job)
    return f"ended; to go on: mrdist submit {run.folder} site=..."
