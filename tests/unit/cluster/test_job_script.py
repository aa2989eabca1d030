"""What slurm/job.sh does when Slurm does not answer, or takes the nodes away: its functions in a shell, beside stand-ins for Slurm."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.waiting import LATE

ROOT = Path(__file__).resolve().parents[3]

SCONTROL = """#!/bin/bash
echo "$*" >>"$STAND/asked"
if [ "$2" = hostnames ]; then printf 'node1\\nnode2\\n'; exit; fi   # which asks no controller
left=$(cat "$STAND/refuses-$1" 2>/dev/null || echo 0)
if ((left)); then echo $((left - 1)) >"$STAND/refuses-$1"; echo "Unable to contact slurm controller" >&2; exit 1; fi
if [ "$1" = show ]; then cat "$STAND/job"; fi
"""
SLEEP = """#!/bin/bash
if [ "$1" = 600 ]; then touch "$STAND/waited"; exit; fi
exec /bin/sleep 0.05
"""
SRUN = """#!/bin/bash
for word; do case $word in --nodelist=*) node=${word#*=} ;; esac; done
[ ! -e "$STAND/dies-$node" ] && echo "$node"
"""
JOB = "   JobState=RUNNING\n   StartTime=2026-01-01T10:00:00\n   PreemptTime={preempted}\n   ExcNodeList=(null)\n"
NEVER = 10_000

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs lines after job.sh in a job of two nodes, and gives back what they said; `stand` is where stand-ins are told what to do."""
    programs, stand = tmp_path / "bin", tmp_path
    programs.mkdir()
    for name, text in (("scontrol", SCONTROL), ("sleep", SLEEP), ("srun", SRUN)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (stand / "job").write_text(JOB.format(preempted="None"))
    (stand / "runs" / "mrdist-7").mkdir(parents=True)
    mine = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "mrdist", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_ON_NODE": "1"}
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path), "STAND": str(stand), "RUNS": str(stand / "runs"), **mine,
    }  # fmt: skip

    def run(lines: str, **more: str) -> subprocess.CompletedProcess[str]:
        script = f"set -uo pipefail; here={ROOT / 'slurm'}; source $here/job.sh; ask_seconds=3; {lines}"
        done = subprocess.run(["bash", "-c", script], env=environment | more, capture_output=True, text=True, check=False, timeout=LATE)
        done.stdout += done.stderr  # a job's log has both
        return done

    return run


def asked(stand: Path) -> list[str]:
    """What Slurm was told, without questions and repetitions."""
    told = [line for line in (stand / "asked").read_text().splitlines() if not line.startswith("show")]
    return list(dict.fromkeys(told))


def test_a_controller_that_restarts_does_not_cost_the_run(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "refuses-requeue").write_text("2")
    done = shell("back_to_the_queue")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "refuses-requeue").read_text() == "0\n"


def test_a_requeue_whose_answer_was_lost_is_not_asked_for_again(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "refuses-requeue").write_text(str(NEVER))
    (tmp_path / "job").write_text(JOB.format(preempted="None").replace("RUNNING", "COMPLETING"))
    assert shell("back_to_the_queue node2").returncode == 0
    assert asked(tmp_path) == ["requeue 7", "update JobId=7 ExcNodeList=node2"]


def test_a_controller_that_does_not_come_back_is_named_in_the_end(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "refuses-requeue").write_text(str(NEVER))
    done = shell("back_to_the_queue")
    assert done.returncode == 1
    assert "Slurm refuses for 3 s: requeue" in done.stdout


def test_a_job_that_could_not_leave_out_a_node_is_in_the_queue_and_not_held(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "refuses-update").write_text(str(NEVER))
    done = shell("back_to_the_queue node2")
    assert done.returncode == 0
    assert "not left out: node2" in done.stdout
    assert asked(tmp_path) == ["requeue 7", "update JobId=7 ExcNodeList=node2"]


def test_whether_it_was_preempted_is_asked_until_there_is_an_answer(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "refuses-show").write_text("2")
    (tmp_path / "job").write_text(JOB.format(preempted="2026-01-01T11:00:00"))
    assert shell("preempted").returncode == 0


def test_a_preemption_before_the_last_start_is_none(shell: Shell, tmp_path: Path) -> None:
    for when in ("None", "2026-01-01T09:00:00"):
        (tmp_path / "job").write_text(JOB.format(preempted=when))
        assert shell("preempted").returncode == 1


@pytest.mark.parametrize("dead", [["node1", "node2"], ["node2"]])
def test_gates_that_die_of_a_preemption_say_nothing_of_their_nodes(shell: Shell, tmp_path: Path, dead: list[str]) -> None:
    (tmp_path / "job").write_text(JOB.format(preempted="2026-01-01T11:00:00"))
    for node in dead:
        (tmp_path / f"dies-{node}").touch()
    done = shell("leave_the_unfit")
    assert (tmp_path / "waited").exists(), "for Slurm, which requeues what it kills"
    assert "unfit" not in done.stdout
    assert asked(tmp_path) == []


def test_a_node_that_is_unfit_is_left_out(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "dies-node2").touch()
    done = shell("leave_the_unfit; touch $STAND/went-on")
    assert "unfit: node2" in done.stdout
    assert asked(tmp_path) == ["requeue 7", "update JobId=7 ExcNodeList=node2"]
    assert not (tmp_path / "went-on").exists()
    assert not (tmp_path / "waited").exists()
