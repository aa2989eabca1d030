"""How a run stands, read from its folder: what became of it, step, loss, rate, time left, and each rank's last sign of life."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mrdist.presets import layers
from mrdist_cluster.runs import Submitted, submitted
from mrdist_cluster.slurm import Queued

RECENT = 20
"""Steps whose mean is the pace."""

FRESH = 30.0
"""Seconds: a rank that lives has stamped in that time, several times over."""


@dataclass(frozen=True)
class Stamp:
    """Where a rank was when it last wrote it down."""

    rank: int
    step: int
    place: str  # "over" when it ended in order
    quiet: float  # seconds it had been there
    time: datetime
    shapes: tuple[str, ...]

    @property
    def over(self) -> bool:
        return self.place == "over"


@dataclass(frozen=True)
class Standing:
    """One run."""

    folder: Path
    job: Submitted | None
    state: str  # done, running, pending, ..., failed, stopped, new
    reason: str  # of a job that waits; nodes of one that runs
    step: int
    steps: int
    loss: float | None
    pace: float | None  # seconds per step, of late
    rate: float | None  # shapes per second, of late
    saved: int  # the step of the newest checkpoint; 0 = none

    @property
    def left(self) -> float | None:
        """Seconds of training left."""
        return None if self.pace is None else self.pace * max(self.steps - self.step, 0)

    @property
    def under_way(self) -> bool:
        """Whether a queue has it, or its ranks live."""
        return self.state not in ("done", "failed", "stopped", "new")


def standing(folder: Path, queue: dict[str, Queued]) -> Standing:
    """How the run in `folder` stands, given Slurm's queue."""
    recipe = layers(folder)
    steps = list(recent(folder / "metrics.jsonl"))
    last: dict[str, Any] = steps[-1] if steps else {}
    # The first step of a process compiles and fills queues: it says nothing about the others.
    paces = sorted(float(line["seconds"]) for line in steps[-RECENT:])
    pace = paces[len(paces) // 2] if paces else None
    job = submitted(folder, queue)
    state, reason = _state(folder, job, queue)
    latest = folder / "latest"
    return Standing(
        folder, job, state, reason,
        step=int(last.get("step", 0)), steps=int(recipe["steps"]), loss=last.get("loss"), pace=pace,
        rate=recipe["batch"] / pace if pace else None,
        saved=int(os.readlink(latest).rpartition("/")[2]) if latest.is_symlink() else 0,
    )  # fmt: skip


def _state(folder: Path, job: Submitted | None, queue: dict[str, Queued]) -> tuple[str, str]:
    if job is not None and job.job in queue:
        return queue[job.job].state, queue[job.job].reason
    if (folder / "done").exists():
        return "done", ""
    if (job is not None and local_alive(job)) or any(not stamp.over and _age(stamp) < FRESH for stamp in stamps(folder)):
        return "running", job.host if job is not None else ""
    if (folder / "why.txt").is_file():
        return "failed", ""
    begun = (folder / "ranks").is_dir() and any((folder / "ranks").iterdir())
    if begun:
        return "stopped", ""
    return ("failed" if job is not None and Path(job.log).is_file() else "new"), ""


def local_alive(job: Submitted) -> bool:
    """Whether the process that holds a local job's ranks is there, on this machine."""
    if not job.local or job.host != os.uname().nodename:
        return False
    # Numbers of processes come again.
    return "submitit" in subprocess.run(["ps", "-o", "args=", "-p", job.job], capture_output=True, text=True, check=False).stdout


def stamps(folder: Path) -> list[Stamp]:
    """Each rank's last sign of life since the run last began or went on, by rank."""
    begun = folder / "command.txt"  # a line for every time
    since = begun.stat().st_mtime if begun.is_file() else 0.0
    found = []
    for file in sorted((folder / "ranks").glob("*.stamp")):
        try:
            if file.stat().st_mtime < since:  # then there may have been more ranks
                continue
            told = json.loads(file.read_text())
            when = datetime.fromisoformat(told["time"])
            found.append(Stamp(told["rank"], told["step"], told["place"], told["for"], when, tuple(told["ids"])))
        except (OSError, ValueError, KeyError):  # it is written anew every few seconds
            continue
    return found


def begun(folder: Path) -> datetime | None:
    """When the run last began or went on, by the clock of its first rank; None: never, or nobody can tell."""
    file = folder / "command.txt"
    try:
        last = file.read_text().splitlines()[-1]
        return datetime.strptime(" ".join(last.split()[:3]), "%Y-%m-%d %H:%M:%S %z")
    except (OSError, ValueError, IndexError):
        return None


def _age(stamp: Stamp) -> float:
    return time.time() - stamp.time.timestamp()


def recent(file: Path, most: int = 1 << 20) -> Iterator[dict[str, Any]]:
    """The last lines of a metrics.jsonl that grows without end: those in its last `most` bytes, or as many more as a whole one takes."""
    if not file.is_file():
        return
    with file.open("rb") as stream:
        end, found = stream.seek(0, os.SEEK_END), list[dict[str, Any]]()
        while not found:
            stream.seek(max(0, end - most))
            found = [told for line in stream.read().splitlines() if (told := _told(line))]
            if most >= end:
                break
            most *= 4
    yield from found


def _told(line: bytes) -> dict[str, Any]:
    """A step; nothing if the line is cut in two, by us or by the end of a process."""
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) and "step" in told else {}
