"""What Slurm says: its queue, one job, whether we are inside one; and what it must not inherit from a shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from mrdist.errors import MrdistError

OURS = re.compile(r"SLURM_(?!CONF$)|SBATCH_|(RANK|WORLD_SIZE|LOCAL_RANK|MASTER_ADDR|MASTER_PORT)$")
"""Variables that belong to the job or the launcher whose shell this is: the new job has its own, and SBATCH_* outrank a script's lines."""

ASK, AGAIN = 90.0, 3.0
"""Seconds that a controller may be silent, as one that restarts is, where a run depends on its answer; and between two questions."""


class SlurmError(MrdistError):
    """Slurm is not there, or refuses."""


@dataclass(frozen=True)
class Queued:
    """A job that Slurm has in its queue."""

    name: str
    state: str  # running, pending, ...
    reason: str  # why it does not run; or its nodes


@cache
def here() -> bool:
    """Whether this machine belongs to a cluster of Slurm's; its programs alone may lie on any."""
    if shutil.which("scontrol") is None:
        return False
    try:
        asked = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:  # it knows whom to ask
        return True
    return "configuration source" not in asked.stderr


def queue() -> dict[str, Queued]:
    """My jobs that wait or run, by id; an element of an array as ARRAY_INDEX, a job of several parts by its first. Empty without Slurm."""
    if not here():
        return {}
    said = _ask("squeue", "--me", "--array", "--noheader", "--format=%i|%j|%T|%R")
    rows = (line.split("|", 3) for line in said.splitlines() if line.count("|") >= 3)
    return {job.removesuffix("+0"): Queued(name, state.lower(), reason.strip("()")) for job, name, state, reason in rows}


def facts(job: str) -> dict[str, str]:
    """What Slurm knows of a job: JobState, Reason, ExitCode, NodeList, ...; from its books, if the controller has forgotten; or nothing."""
    if not here():
        return {}
    try:
        return dict(re.findall(r"(\S+?)=(\S*)", _ask("scontrol", "show", "job", job)))
    except SlurmError:
        pass
    try:
        said = _ask("sacct", "-X", "-n", "-P", "-j", job, "--format=State,Reason,ExitCode,NodeList")
    except SlurmError:  # many a site keeps no books
        return {}
    named = zip(("JobState", "Reason", "ExitCode", "NodeList"), (said.splitlines() or [""])[-1].split("|"), strict=False)
    return {name: value.split()[0] for name, value in named if value}


def preempted(job: str, *, within: float = ASK) -> bool:
    """Whether a job was preempted since it last began: Slurm remembers the last time for ever.

    Args:
        within: seconds in which Slurm must have answered; no answer is none until then, for "no" ends a job that Slurm is to send back.
    """
    deadline = time.monotonic() + within
    while not (known := facts(job)).get("StartTime") and here() and time.monotonic() < deadline:
        time.sleep(AGAIN)
    when = known.get("PreemptTime", "")
    return when.startswith("2") and when > known.get("StartTime", "")


def cancel(job: str) -> None:
    """End a job for good.

    Raises:
        SlurmError: Slurm refuses.
    """
    _ask("scancel", job)


def refuse_inside(environment: Mapping[str, str]) -> None:
    """
    Raises:
        SlurmError: this is a job already: what it submits would hold its own place while it waits for another.
    """
    # Slurm says BATCH to scripts and what they start; a shell that somebody opened in an allocation is none.
    if "SUBMITIT_EXECUTOR" in environment or (environment.get("ENVIRONMENT") == "BATCH" and "SLURM_JOB_ID" in environment):
        raise SlurmError(
            what="mrdist submit",
            got=f"a call from inside job {environment.get('SLURM_JOB_ID', 'of submitit')}",
            wanted="a login node, or a shell of one's own",
            try_="mrdist train, which trains in this job",
        )


@contextmanager
def forgetting(keep: Sequence[str] = ()) -> Iterator[None]:
    """The environment without what another job or launcher left in it, for a time.

    Args:
        keep: variables of SBATCH_* that are meant.
    """
    before = dict(os.environ)
    try:
        for name in before:
            if OURS.match(name) and name not in keep:
                del os.environ[name]
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _ask(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as wrong:
        raise SlurmError(what=words[0], got=str(wrong), wanted="an answer within a minute", try_="sinfo; is this a login node?") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise SlurmError(what=" ".join(words[:2]), got=said[-1], wanted="an answer", try_="squeue --me")
    return done.stdout
