"""What a job asks for, and how it is handed over: to Slurm, or to this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import submitit
from submitit.core.utils import UncompletedJobError, environment_variables

from mrdist.errors import RecipeError
from mrdist.site import EVER, Allocation, Site, read
from mrdist_cluster import slurm
from mrdist_cluster.runs import Submitted, note
from mrdist_cluster.task import GRACE, Task

HOURS = 24.0
"""Of a job where neither the words nor the site say it: what it does not finish, the next window does."""

WINDOWS = 50
"""Times that a job may reach its end and go back to the queue."""

WORDS = ("site", "nodes", "gpus", "hours")
"""Words that say what is asked for."""

KEYS = ("partition", "account", "qos", "constraint")
"""Of a site, where a shell may say SBATCH_PARTITION=... as long as the site says nothing."""

OPTIONS = ("reservation", "gres", "licenses", "exclusive", "mem", "exclude", "nodelist", "mail-type", "mail-user", "comment")
"""Of sbatch, which stand in `sbatch` of a site."""


@dataclass(frozen=True)
class Order:
    """What each run of a submission gets."""

    site: Site
    allocation: Allocation  # one node of the site, unless said otherwise
    parallel: int = 256  # runs of an array that may be under way at once

    @classmethod
    def of(cls, words: Mapping[str, str], *, parallel: int = 256) -> Order:
        """An order from words.

        Raises:
            RecipeError: a word that is none of WORDS, a number that is none, or more than the site has.
        """
        if of_site := [name for name in words if name in (*KEYS, *OPTIONS)]:
            name, said = of_site[0], f"{of_site[0]}: {words[of_site[0]]}"
            line = said if name in KEYS else f"sbatch: {{{said}}}"
            raise RecipeError(what=name, got="a word", wanted="a line of the site file", try_=f"site=my.yaml, and in it {line}")
        if stray := [name for name in words if name not in WORDS]:
            raise RecipeError(what=stray[0], got="a word that means nothing here", wanted=f"one of {', '.join(WORDS)}", try_="site=NAME")
        if "site" not in words and slurm.here():
            # Without a word on a login node, a run of days would begin there.
            raise RecipeError(
                what="site", got="nothing, where there is a Slurm", wanted="where the job goes", try_="site=my.yaml, or site=local"
            )
        site = read(words.get("site", "local"))
        nodes, gpus, hours = (number(name, words[name], whole=name != "hours") if name in words else None for name in WORDS[1:])
        if hours is not None and site.hours and hours > site.hours:
            raise RecipeError(
                what="hours", got=f"{hours:g}", wanted=f"at most {site.hours:g} at site {site.name}", try_=f"hours={site.hours:g}"
            )
        given = site.allocation(nodes=1 if nodes is None else int(nodes), gpus=None if gpus is None else int(gpus))
        return cls(site, replace(given, hours=hours or site.hours or (0 if site.name == "local" else HOURS)), parallel)

    @property
    def local(self) -> bool:
        """Whether the runs stay on this machine."""
        return self.site.name == "local"

    def script(self, runs: int, folder: Path, name: str) -> str:
        """The text that sbatch would get for so many runs."""
        sender = self._sender(folder, name)
        if runs > 1:
            sender.parameters["map_count"] = runs
        return sender._make_submission_file_text(sender._submitit_command_str, "")

    def send(self, runs: Sequence[Path], folder: Path, name: str) -> list[Submitted]:
        """Submit runs, several as one array, and note in each run folder which job it became.

        Args:
            folder: for what submitit and Slurm write; all nodes see it.

        Raises:
            SlurmError: Slurm refuses.
        """
        for run in runs:
            if (run / "why.txt").is_file():  # of the start before: what comes now is not its end
                os.replace(run / "why.txt", run / "why-before.txt")
        folder.mkdir(parents=True, exist_ok=True)  # Slurm makes no folder for a log: a job without one fails without a word
        keep = [_variable(key) for key in KEYS if not getattr(self.site, key)]
        tasks = [Task(run.resolve(), self._gpus) for run in runs]
        if not self.local and not slurm.here():
            raise slurm.SlurmError(what=f"site {self.site.name}", got="no Slurm", wanted="squeue and sbatch", try_="site=local")
        with slurm.forgetting(keep):
            try:
                jobs = self._local(folder, tasks) if self.local else self._sender(folder, name).submit_array(tasks)
            except UncompletedJobError as wrong:
                said = str(wrong).splitlines()[-1]
                raise slurm.SlurmError(what="sbatch", got=said, wanted="a job's number", try_="another site= or hours=; sinfo") from None
        given = [Submitted(job.job_id, str(job.paths.stdout), self.local, os.uname().nodename) for job in jobs]
        for run, one in zip(runs, given, strict=True):
            note(run, one)
        return given

    def unheard(self, exported: Iterable[str]) -> list[str]:
        """The options, as variables SBATCH_*, that a shell exports in vain: nobody says them."""
        heard = [_variable(key) for key in (*KEYS, *self.site.sbatch)]
        return [] if self.local else sorted(name for name in exported if name.startswith("SBATCH_") and name not in heard)

    def _local(self, folder: Path, tasks: Sequence[Task]) -> list[submitit.Job[None]]:
        """Ranks beside one another on this machine, which outlive the terminal they were started from."""
        sender = submitit.LocalExecutor(folder, max_num_timeout=WINDOWS)
        sender.update_parameters(
            timeout_min=60 * (self.allocation.hours or EVER), signal_delay_s=GRACE, tasks_per_node=self.allocation.per_node,
            gpus_per_node=self._gpus, stderr_to_stdout=True,
        )  # fmt: skip
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
        try:
            with environment_variables(**self._surroundings()):
                return sender.submit_array(tasks)
        finally:
            for number, answer in before.items():
                signal.signal(number, answer)

    def _sender(self, folder: Path, name: str) -> submitit.SlurmExecutor:
        site, allocation = self.site, self.allocation
        whole = allocation.per_node == site.gpus
        more: dict[str, object] = {"requeue": True}
        if self._gpus:
            more["gpus-per-node"] = self._gpus
        if whole:
            more |= {"exclusive": True, "mem": 0}
        elif site.host:
            more["mem"] = f"{int(site.host * allocation.per_node / site.gpus)}G"
        sender = _Sender(folder, max_num_timeout=WINDOWS)
        sender.update_parameters(
            job_name=name, time=max(1, round(60 * allocation.hours)), nodes=allocation.nodes, ntasks_per_node=allocation.per_node,
            cpus_per_task=self._cores, partition=site.partition or None, account=site.account or None, qos=site.qos or None,
            constraint=site.constraint or None, array_parallelism=self.parallel, signal_delay_s=GRACE, stderr_to_stdout=True, wckey=None,
            # From Slurm 22.05 on srun does not inherit --cpus-per-task. A dead rank must not keep the others waiting; the first one may
            # have to stay longer than they.
            srun_args=[f"--cpus-per-task={self._cores}", "--kill-on-bad-exit=1", "--wait=0"],
            setup=[f"export {key}=${{{key}:-{value}}}" for key, value in self._surroundings().items()] + guarded(site.setup),
            additional_parameters={key: value for key, value in {**more, **site.sbatch}.items() if value is not False},
        )  # fmt: skip
        return sender

    @property
    def _gpus(self) -> int:
        """Of each node, one for each rank. What this machine has is looked at, as nobody wrote it down."""
        if self.local:
            import torch

            return min(self.allocation.per_node, torch.cuda.device_count())
        return 0 if self.site.device == "core" else self.allocation.per_node

    @property
    def _cores(self) -> int:
        """Of each rank: its share of the node."""
        return max(1, self.site.cores // self.site.gpus)

    def _surroundings(self) -> dict[str, str]:
        """Threads that wait sleep; a crash in C says where in Python it was; what a rank says is in its log at once."""
        threads = {} if self.local else {"OMP_NUM_THREADS": str(self._cores)}
        return {**threads, "OMP_WAIT_POLICY": "passive", "PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1"}


class _Sender(submitit.SlurmExecutor):
    @classmethod
    def affinity(cls) -> int:
        """A dry run needs no Slurm."""
        return 2


def _variable(option: str) -> str:
    return f"SBATCH_{option.upper().replace('-', '_')}"


TRAP = """trap 'code=$? line=$LINENO; [ ${#BASH_SOURCE[@]} -gt 1 ] || {
  echo "error: setup of the site: got exit code $code from: $(sed -n "${line}p" "$0"), wanted 0. Try: that line on $(hostname)" >&2
  exit $code; }' ERR"""
"""For the lines of a script. In functions and files that they call many a line fails and means nothing by it: `set -e` would stop there."""


def guarded(setup: str) -> list[str]:
    """Lines of bash of which one that fails ends the script, by name."""
    return [*TRAP.splitlines(), *setup.splitlines(), "trap - ERR"] if setup.strip() else []


def number(name: str, value: str, *, whole: bool = True) -> float:
    """A positive number.

    Raises:
        RecipeError: it is none.
    """
    if value.replace(".", "", not whole).isdigit() and float(value) > 0:
        return float(value)
    raise RecipeError(what=name, got=repr(value), wanted="a number above 0", try_=f"{name}=4")
