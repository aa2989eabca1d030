"""Who else may start the runs of an experiment: Slurm, as one array; Ray, a task each. The protocol is `mrdist.cli.launching.Launch`."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mrdist.cli.launching import ENDING, LOG, locked
from mrdist.cli.main import DONE
from mrdist.errors import RecipeError
from mrdist_cluster.order import Order, number
from mrdist_cluster.runs import submitted
from mrdist_cluster.slurm import SlurmError, queue

LOOK = 10
"""Ticks of a second between two questions to Slurm."""

TAKEN = -1
"""In place of an exit code: somebody else trains in that folder."""

logger = logging.getLogger(__name__)


def slurm(folders: Sequence[Path], words: Mapping[str, str], tick: Callable[[], None]) -> None:
    """An array of jobs, of one node each unless `nodes` says otherwise; `jobs` of them at once. Returns when Slurm has none left.

    Runs that Slurm still has from a call before are waited for. Ctrl-C leaves all of them to Slurm: the same call waits again.

    Args:
        words: `jobs`, and those of `mrdist submit`: site, nodes, gpus, hours.

    Raises:
        RecipeError: a word that means nothing, or more than the site has.
        SlurmError: Slurm refuses.
    """
    order = Order.of(
        {name: value for name, value in words.items() if name != "jobs"}, parallel=int(number("jobs", words.get("jobs", "256")))
    )
    if order.local:
        raise RecipeError(what="site", got=words.get("site", "nothing"), wanted="a site with Slurm", try_="launcher=local")
    there = queue()
    if fresh := [folder for folder in folders if _job(folder) not in there]:
        order.send(fresh, fresh[0].parent.resolve() / ".submitted", fresh[0].parent.name)
    waiting = {_job(folder) for folder in folders}
    while waiting:
        for _ in range(LOOK):
            tick()
            time.sleep(1)
        try:
            waiting &= queue().keys()
        except SlurmError as wrong:  # a busy controller is no end
            logger.warning("%s", wrong)


def ray(folders: Sequence[Path], words: Mapping[str, str], tick: Callable[[], None]) -> None:
    """A task of one rank per run, wherever the cluster has room; `jobs` of them at once. Ctrl-C stops all of them in order.

    Runs that go on although the Ray process that had begun them was killed are waited for.

    Args:
        words: `jobs`, `cores` and `gpus` of each run (1 core; a GPU, if the cluster has any).

    Raises:
        RecipeError: a word that means nothing.
    """
    if stray := sorted(set(words) - {"jobs", "cores", "gpus"}):
        raise RecipeError(what=f"launcher.{stray[0]}", got="a word for another launcher", wanted="jobs, cores, gpus", try_="launcher=slurm")
    from mrdist_cluster.settings import joined, nodes

    with joined():
        import ray as library

        gpus = number("gpus", words["gpus"], whole=False) if "gpus" in words else float(any(node.gpus for node in nodes()))
        cores = number("cores", words.get("cores", "1"))
        # What died is begun again by the next call, from its checkpoint; Ray would begin it again even when it was asked to stop.
        task: Any = library.remote(num_cpus=cores, num_gpus=gpus, max_retries=0)(_train)
        here, most = str(Path.cwd()), int(number("jobs", words.get("jobs", str(len(folders)))))
        waiting, running = list(folders), dict[Any, Path]()
        try:
            while waiting or running:
                while waiting and len(running) < most:
                    folder = waiting.pop(0)
                    running[task.remote(str(folder.resolve()), here)] = folder
                over, _ = library.wait(list(running), num_returns=1, timeout=1)
                for one in over:
                    folder = running.pop(one)
                    with suppress(library.exceptions.RayError):  # whoever called it died
                        waiting += [folder] * (library.get(one) == TAKEN)
                tick()
        except KeyboardInterrupt:
            _end(running, library.wait)
            raise


def _job(folder: Path) -> str:
    known = submitted(folder, {})
    return known.job if known is not None else ""


def _end(running: dict[Any, Path], wait: Callable[..., tuple[list[Any], list[Any]]]) -> None:
    """Have the runs of all tasks stop; says of which it is not known."""
    deadline = time.monotonic() + ENDING
    try:
        while running and time.monotonic() < deadline:
            for folder in running.values():
                (folder / "stop").touch()  # again and again: a run that only now begins takes it away
            for one in wait(list(running), num_returns=len(running), timeout=1)[0]:
                running.pop(one)
    finally:
        for folder in running.values():
            logger.warning("perhaps still at work: %s; to stop it: touch %s/stop", folder, folder)


def _train(run: str, place: str) -> int:
    """`mrdist train RUN` from the folder that relative paths mean, with as many threads as the task has cores: Ray's own rule."""
    lock = locked(Path(run))
    if lock is None:
        time.sleep(1)  # or the driver would ask again at once
        return TAKEN
    if (Path(run) / "done").exists():
        return DONE
    with lock, (Path(run) / LOG).open("ab") as log:
        command = [sys.executable, "-m", "mrdist", "train", run, "-q"]
        # It inherits the lock: if this process is killed, nobody else trains there before it has ended.
        return subprocess.run(command, cwd=place, stdout=log, stderr=log, check=False, pass_fds=[lock.fileno()]).returncode
