"""A real Slurm of three nodes on this machine, the jobs in it, and how to wait for them."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from mrdist.training.folder import lines

HERE = Path(__file__).parent / "cluster"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "ip", "unshare", "nsenter", "setpriv")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")

Seen = TypeVar("Seen")


def missing() -> str:
    """Why this machine cannot hold a Slurm; nothing if it can."""
    if os.geteuid() != 0:
        return "a real Slurm needs root"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if absent := [name for name in PROGRAMS if shutil.which(name, path=path) is None]:
        return f"a real Slurm needs {', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge iproute2"
    probe = ["unshare", "-n", "-u", "-m", "-p", "-f", "ip", "link", "add", "br0", "type", "bridge"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        return "a real Slurm needs network, mount and process namespaces of its own"
    return ""


def until(look: Callable[[], Seen | None], *, within: float, what: str) -> Seen:
    """What `look` returns, as soon as that is something; fails after `within` seconds."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if seen := look():
            return seen
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {within:g} s")


@dataclass
class Slurm:
    """`with Slurm(folder) as slurm:` three nodes of 64 CPUs and 8 GPUs (which are no GPUs); every process of it ends with the block."""

    folder: Path
    shared: Sequence[Path] = ()  # folders under /tmp that all nodes see
    nodes: tuple[str, ...] = ("node1", "node2", "node3")
    _process: subprocess.Popen[bytes] = field(init=False, repr=False)
    _present: int = field(init=False, repr=False)  # an open file; all clusters of this machine share its lock

    def __enter__(self) -> Self:
        self._present = os.open("/sys/fs/cgroup", os.O_RDONLY)
        fcntl.flock(self._present, fcntl.LOCK_SH)
        environment = {**os.environ, "SHARED": ":".join(str(place) for place in self.shared)}
        self._process = subprocess.Popen(["bash", str(HERE / "up.sh"), str(self.folder), str(len(self.nodes))], env=environment)
        try:
            until(lambda: all((self.folder / host / "pid").exists() for host in ("login", *self.nodes)), within=300, what="the nodes start")
            self.await_idle()
        except BaseException:
            self._down()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._down()

    def _down(self) -> None:
        self._process.kill()
        self._process.wait(timeout=60)
        with suppress(BlockingIOError):  # nodes of another cluster have the same names: the last one clears up
            fcntl.flock(self._present, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for node in self.nodes:
                for place, _, _ in list(os.walk(f"/sys/fs/cgroup/freezer/slurm_{node}", topdown=False)):
                    with suppress(OSError):
                        os.rmdir(place)
        os.close(self._present)

    def on(self, host: str, *words: str, within: float = 120, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
        """What a command on the login host or on a node says."""
        command = ["bash", str(HERE / "on.sh"), str(self.folder), host, *words]
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=within, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def await_idle(self, *, within: float = 300) -> None:
        """Return when every node is there and has nothing to do."""

        def idle() -> bool:
            with suppress(AssertionError):  # the controller may not answer yet
                found = self.on("login", "sinfo", "--noheader", "--partition=gpu", "--states=idle", "--format=%D")
                return found.split() == [str(len(self.nodes))]
            return False

        until(idle, within=within, what="all nodes idle")

    @contextmanager
    def without_power(self, node: str) -> Iterator[None]:
        """The same cluster after the plug of a node was pulled; afterwards it is put back."""
        os.kill(int((self.folder / node / "pid").read_text()), 9)
        try:
            yield
        finally:
            self.on("login", "bash", str(HERE / "node.sh"), str(self.folder), node)
            self.await_idle()

    @contextmanager
    def configured(self, line: str, instead: str) -> Iterator[None]:
        """The same cluster with another line in its slurm.conf."""
        file = self.folder / "slurm.conf"
        before = file.read_text()
        assert f"\n{line}\n" in before
        try:
            file.write_text(before.replace(f"\n{line}\n", f"\n{instead}\n"))
            self.on("login", "scontrol", "reconfigure")
            yield
        finally:
            file.write_text(before)
            self.on("login", "scontrol", "reconfigure")

    @contextmanager
    def disk(self, folder: Path, *, megabytes: int) -> Iterator[None]:
        """A small file system of its own at a folder, which this process and every node see."""
        image = folder.with_suffix(".image")
        folder.mkdir()
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        device = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=True).stdout.strip()
        try:
            subprocess.run(["mount", device, str(folder)], check=True)
            for node in self.nodes:
                self.on(node, "mount", device, str(folder))
            yield
        finally:
            for node in self.nodes:
                with suppress(AssertionError):  # it lost its power, and its mounts
                    self.on(node, "umount", "--lazy", str(folder))
            subprocess.run(["umount", "--lazy", str(folder)], check=False)
            subprocess.run(["losetup", "--detach", device], check=False)

    def sbatch(self, words: Sequence[str], *, cwd: Path, **environment: str) -> Job:
        """Submit `sbatch WORDS` from a folder, in our environment without another job's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        said = self.on("login", "sbatch", "--parsable", *words, cwd=cwd, env={**kept, "OMP_NUM_THREADS": "1", **environment})
        return Job(self, int(said), cwd, cwd / environment.get("RUNS", "runs"))


@dataclass(frozen=True)
class Job:
    """A job of slurm/pretrain.sh or slurm/pretrain_giant.sh."""

    slurm: Slurm
    id: int
    lab: Path
    runs: Path

    @property
    def facts(self) -> dict[str, str]:
        """What Slurm knows of it."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.slurm.on("login", "scontrol", "show", "job", str(self.id))))

    @property
    def state(self) -> str:
        return self.facts["JobState"]

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.runs / f"mrdist-{self.id}"

    @property
    def log(self) -> str:
        file = self.lab / f"mrdist-{self.id}.out"
        return file.read_text(errors="replace") if file.is_file() else ""

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The lines of its metrics."""
        file = self.folder / "metrics.jsonl"
        return list(lines(file)) if file.is_file() else []

    def reaches(self, step: int, *, within: float = 600) -> None:
        """Return when the job has taken that step."""

        def there() -> bool:
            assert self.state not in OVER, self.log
            return bool(self.steps) and self.steps[-1]["step"] >= step

        until(there, within=within, what=f"job {self.id} at step {step}")

    def ends(self, state: str = "COMPLETED", *, within: float = 900) -> None:
        """Return when the job has come to an end, which must be `state`."""

        def over() -> str | None:
            found = self.state
            return found if found in OVER else None

        try:
            found = until(over, within=within, what=f"the end of job {self.id}")
        except AssertionError as wrong:
            raise AssertionError(f"{wrong}\n{self.facts}\n{self.log}") from None
        assert found == state, f"{found}\n{self.log}"
