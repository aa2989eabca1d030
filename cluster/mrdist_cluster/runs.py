"""Run folders by name, and which job each was given to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mrdist.errors import RecipeError
from mrdist_cluster.slurm import Queued

JOBS = "jobs.jsonl"
"""In a run folder: a line for every time it was submitted."""


@dataclass(frozen=True)
class Submitted:
    """A job that a run was given to."""

    job: str
    log: str = ""  # where Slurm and its tasks speak until a rank does
    local: bool = False  # a process of the machine that submitted it; `job` is its number
    host: str = ""  # that machine
    time: str = field(default="", compare=False)  # of the submission


def note(folder: Path, given: Submitted) -> None:
    """Write down that a run was submitted."""
    with (folder / JOBS).open("a") as file:
        file.write(json.dumps({**asdict(given), "time": datetime.now().astimezone().isoformat(timespec="seconds")}) + "\n")


def submitted(folder: Path, queue: dict[str, Queued]) -> Submitted | None:
    """The last job of a run; None if it was never submitted.

    Args:
        queue: Slurm's: the scripts of slurm/ name a run folder JOBNAME-JOBID, and write nothing else down.
    """
    file = folder / JOBS
    if file.is_file():
        known: dict[str, Any] = json.loads(file.read_text().splitlines()[-1])
        return Submitted(known["job"], known["log"], known["local"], known["host"], known.get("time", ""))
    stem, _, job = folder.name.rpartition("-")
    if job in queue and queue[job].name == stem:
        return Submitted(job)
    return None


def listed(root: Path) -> list[Path]:
    """The run folders beneath a folder, or beneath the folders of an experiment in it; the youngest last."""
    found = {file.parent for pattern in ("*/recipe.yaml", "*/*/recipe.yaml") for file in root.glob(pattern)}
    return sorted(found, key=lambda folder: (folder / "recipe.yaml").stat().st_mtime)


def find(name: str, root: Path) -> Path:
    """The run of that name: its folder, or a part of its name that no other run beneath `root` has.

    Raises:
        RecipeError: no run, or several.
    """
    if (Path(name) / "recipe.yaml").is_file():
        return Path(name)
    found = [folder for folder in listed(root) if name in str(folder.relative_to(root))]
    found = [folder for folder in found if folder.name == name or folder.name.endswith(f"-{name}")] or found
    if len(found) == 1:
        return found[0]
    shown = ", ".join(folder.name for folder in found[-4:])
    raise RecipeError(
        what=f"run {name!r}",
        got=f"{len(found)} runs: ... {shown}" if found else f"no run of that name in {root}",
        wanted="a run folder, or a part of its name that no other has",
        try_="mrdist jobs",
    )
