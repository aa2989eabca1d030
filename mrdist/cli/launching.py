"""Who starts the runs of an experiment: processes on this machine, or what a plugin knows (Slurm, Ray)."""

from __future__ import annotations

import difflib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import IO, Protocol

from mrdist.errors import INSTALL, RecipeError

LOCAL = "local"
LOG = "output.txt"
"""In a run folder: what `mrdist train` said."""
ENDING = 300.0
"""Seconds that runs have to save and end after Ctrl-C."""
_LOOK = 0.5  # seconds


class Launch(Protocol):
    """Found by the entry-point group `mrdist.launchers`."""

    def __call__(self, folders: Sequence[Path], words: Mapping[str, str], tick: Callable[[], None]) -> None:
        """Do what `mrdist train FOLDER` does in every folder; return when none is under way any more, whatever came of it.

        Args:
            folders: run folders that are not done; what was begun goes on.
            words: `jobs`, how many may run at once, if somebody said so; and whatever was said as `launcher.KEY=VALUE`, by KEY.
            tick: to be called every second or so.

        Raises:
            RecipeError: a word that it does not know.
            KeyboardInterrupt: the user has had enough.
        """


def launcher(name: str) -> Launch:
    """The launcher of a name.

    Raises:
        RecipeError: nobody knows it.
    """
    table = {**{e.name: e.value for e in entry_points(group="mrdist.launchers")}, LOCAL: f"{__name__}:local"}
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        try_ = f"launcher={near[0]}" if near else INSTALL
        raise RecipeError(what=f"launcher={name}", got="no such launcher", wanted=f"one of {', '.join(sorted(table))}", try_=try_)
    module, _, attribute = table[name].partition(":")
    found: Launch = getattr(import_module(module), attribute)
    return found


@dataclass
class _Child:
    """A run under way. Its process inherits the lock: as long as it lives, whoever started it, nobody else trains in that folder."""

    process: subprocess.Popen[bytes]
    lock: IO[bytes]
    place: int  # among those that run at once


def local(folders: Sequence[Path], words: Mapping[str, str], tick: Callable[[], None]) -> None:
    """One process per run on this machine, `jobs` at once; they share its cores, and each has a GPU of its own while there are enough.

    Runs that another `mrdist scale`, killed meanwhile, has left behind are waited for. Ctrl-C stops ours in order, a second one
    at once.
    """
    if strange := sorted(set(words) - {"jobs"}):
        raise RecipeError(what=f"launcher.{strange[0]}", got="a word for another launcher", wanted="jobs=K alone", try_="launcher=slurm")
    jobs = words.get("jobs", "1")
    if not jobs.isdigit() or int(jobs) < 1:
        raise RecipeError(what="jobs", got=repr(jobs), wanted="a number, at least 1", try_="jobs=2")
    waiting, running = list(folders), dict[Path, _Child]()
    try:
        while waiting or running:
            for folder in [f for f, child in running.items() if child.process.poll() is not None]:
                running.pop(folder).lock.close()
            for folder in list(waiting):
                free = [place for place in range(int(jobs)) if place not in {child.place for child in running.values()}]
                if free and (lock := locked(folder)):
                    waiting.remove(folder)
                    if (folder / "done").exists():
                        lock.close()
                    else:
                        running[folder] = _started(folder, lock, free[0], int(jobs))
            tick()
            time.sleep(_LOOK)
    except KeyboardInterrupt:
        _end(running)
        raise


def _end(running: Mapping[Path, _Child]) -> None:
    """Have all runs stop in order, or kill them: nobody is left at work."""
    deadline = time.monotonic() + ENDING
    try:
        while (left := [folder for folder, child in running.items() if child.process.poll() is None]) and time.monotonic() < deadline:
            for folder in left:
                (folder / "stop").touch()  # again and again: a run that only now begins takes it away
            time.sleep(_LOOK)
    finally:
        for folder, child in running.items():
            if child.process.poll() is None:
                print(f"killed: {folder}; its steps since the last checkpoint will be done again", file=sys.stderr)
                os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()


def locked(folder: Path) -> IO[bytes] | None:
    """The lock of a run folder, unless somebody else has it. Who trains inherits it: it is free when nobody trains any more."""
    lock = (folder / "lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _started(folder: Path, lock: IO[bytes], place: int, jobs: int) -> _Child:
    cores = len(os.sched_getaffinity(0))
    environment = {"OMP_NUM_THREADS": str(max(1, cores // jobs)), **_own_gpu(place, jobs), **os.environ}
    with (folder / LOG).open("ab") as log:
        # A session of its own: Ctrl-C is for us, who ask it to stop and wait.
        process = subprocess.Popen(
            [sys.executable, "-m", "mrdist", "train", str(folder), "-q"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            pass_fds=[lock.fileno()], start_new_session=True,
        )  # fmt: skip
    lock.truncate(0)
    lock.write(f"{process.pid}\n".encode())  # for people who wonder who it is
    lock.flush()
    return _Child(process, lock, place)


def _own_gpu(place: int, jobs: int) -> dict[str, str]:
    import torch

    count = torch.cuda.device_count()
    return {"CUDA_VISIBLE_DEVICES": str(place % count)} if min(count, jobs) > 1 else {}
