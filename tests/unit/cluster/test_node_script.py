"""slurm/ray_node.sh with a stand-in for Ray: what it hears, and what it leaves on a node."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.waiting import LATE, until

SCRIPT = Path(__file__).resolve().parents[3] / "slurm" / "ray_node.sh"
Start = Callable[..., "subprocess.Popen[bytes]"]

RAY = """#!/bin/bash
mkdir -p "$RAY_TEMP"; touch "$RAY_TEMP/spilled" "$RAY_TEMP/up"
exec sleep 600
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the head's script of a job by its number; whatever is left of any ends with the test."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ray").write_text(RAY)
    (tmp_path / "bin" / "ray").chmod(0o755)
    (tmp_path / "run").mkdir()
    mine = {"RUN": str(tmp_path / "run"), "SLURMD_NODENAME": "node1", "SLURM_CPUS_ON_NODE": "1", "RAY_PORTS": "1", "RAY_HEAD": "127.0.0.1"}
    started: list[subprocess.Popen[bytes]] = []

    def begin(job: int, **more: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **mine, "SLURM_JOB_ID": str(job), "RAY_TEMP": str(tmp_path / f"ray-{job}"), **more}
        environment["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        started.append(subprocess.Popen(["bash", str(SCRIPT), "head"], env=environment, start_new_session=True))
        return started[-1]

    yield begin
    for process in started:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """As Slurm does: all of it, at once."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def up(folder: Path) -> None:
    until((folder / "up").exists, f"Ray in {folder}")


def left(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name.startswith("ray-"))


def test_it_ends_when_it_is_told_and_leaves_nothing(start: Start, tmp_path: Path) -> None:
    process = start(7)
    up(tmp_path / "ray-7")
    process.send_signal(signal.SIGUSR2)
    assert process.wait(timeout=LATE) == 0
    assert left(tmp_path) == []


def test_it_ends_when_it_is_told_just_as_ray_begins(start: Start, tmp_path: Path) -> None:
    (tmp_path / "told").write_text("""trap 'if [ "$BASH_COMMAND" = "ray=\\$!" ]; then kill -USR2 $$; fi' DEBUG""")
    assert start(7, BASH_ENV=str(tmp_path / "told")).wait(timeout=LATE) == 0


def test_what_a_job_left_that_was_killed_goes_when_the_next_one_begins(start: Start, tmp_path: Path) -> None:
    first = start(7)
    up(tmp_path / "ray-7")
    kill(first)
    assert (tmp_path / "ray-7" / "spilled").exists()
    start(8)
    up(tmp_path / "ray-8")
    assert left(tmp_path) == ["ray-8", "ray-8.lock"]


def test_a_job_beside_it_is_left_alone_also_when_only_its_ray_is_left(start: Start, tmp_path: Path) -> None:
    first = start(7)
    up(tmp_path / "ray-7")
    start(8)
    up(tmp_path / "ray-8")
    assert (tmp_path / "ray-7" / "spilled").exists()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    start(9)
    up(tmp_path / "ray-9")
    assert (tmp_path / "ray-7" / "spilled").exists()


def test_a_job_that_comes_back_to_the_node_takes_its_own_place_again(start: Start, tmp_path: Path) -> None:
    first = start(7)
    up(tmp_path / "ray-7")
    kill(first)
    (tmp_path / "ray-7" / "up").unlink()
    start(7)
    up(tmp_path / "ray-7")
    start(8)
    up(tmp_path / "ray-8")
    assert left(tmp_path) == ["ray-7", "ray-7.lock", "ray-8", "ray-8.lock"]


def test_many_that_begin_at_once_take_nothing_from_one_another(start: Start, tmp_path: Path) -> None:
    for job in range(10, 20):
        (tmp_path / f"ray-{job - 10}").mkdir()
        (tmp_path / f"ray-{job - 10}.lock").touch()
    for job in range(10, 20):
        start(job)
    for job in range(10, 20):
        up(tmp_path / f"ray-{job}")
    assert left(tmp_path) == sorted([f"ray-{job}" for job in range(10, 20)] + [f"ray-{job}.lock" for job in range(10, 20)])


def test_only_what_a_job_of_ours_left_is_removed(start: Start, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for name in ("ray-mine", "ray-5"):
        (tmp_path / name).mkdir()
    for name in ("ray-mine", "ray-"):
        (tmp_path / f"{name}.lock").touch()  # no job's
    (tmp_path / "kept" / "lock").touch()
    (tmp_path / "ray-5.lock").symlink_to(tmp_path / "kept" / "lock")
    (tmp_path / "ray-6.lock").touch()
    (tmp_path / "ray-6").symlink_to(tmp_path / "kept")
    (tmp_path / "ray-4").mkdir()  # without a lock nobody knows whether it is in use
    start(7)
    up(tmp_path / "ray-7")
    assert left(tmp_path) == ["ray-.lock", "ray-4", "ray-5", "ray-5.lock", "ray-7", "ray-7.lock", "ray-mine", "ray-mine.lock"]
    assert (tmp_path / "kept" / "lock").exists()


def test_a_lock_that_cannot_be_had_keeps_no_job_from_its_ray(start: Start, tmp_path: Path) -> None:
    (tmp_path / "ray-7.lock").mkdir()
    (tmp_path / "ray-7.lock" / "something").touch()
    process = start(7)
    up(tmp_path / "ray-7")
    process.send_signal(signal.SIGUSR2)
    assert process.wait(timeout=LATE) == 0
