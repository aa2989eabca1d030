"""slurm/pretrain.sh on a real Slurm: whatever becomes of its nodes, every shape is trained once per epoch, and the curve is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mrdist.recipe import load
from tests.slurm.conftest import ROOT
from tests.slurm.evidence import assert_nothing_was_lost, once_per_epoch
from tests.slurm.real import OVER, Job, Slurm, until

SCRIPT = str(ROOT / "slurm" / "pretrain.sh")
drill = pytest.mark.drill


def submit(slurm: Slurm, lab: Path, *words: str, nodes: int = 2, **environment: str) -> Job:
    return slurm.sbatch([f"--nodes={nodes}", *words, SCRIPT, "drill.yaml"], cwd=lab, **environment)


@pytest.fixture(scope="session")
def undisturbed(slurm: Slurm, lab: Path) -> Job:
    """A job that nobody disturbed."""
    job = submit(slurm, lab)
    job.ends()
    return job


def test_two_nodes_train_to_the_end_and_measure(undisturbed: Job) -> None:
    assert once_per_epoch(undisturbed)
    assert "Zero-shot classification" in undisturbed.log
    assert set(json.loads((undisturbed.folder / "report.json").read_text())) >= {"contract"}
    for node in ("node1", "node2"):
        assert list((undisturbed.folder / "ranks" / node).rglob("stdout.log"))
    assert len((undisturbed.folder / "command.txt").read_text().splitlines()) == 1


def test_a_job_whose_time_is_nearly_up_saves_and_goes_on_after_the_queue(slurm: Slurm, lab: Path, undisturbed: Job, lingering: str) -> None:
    job = submit(slurm, lab, PYTHONPATH=lingering)
    job.reaches(10)
    slurm.on("login", "scancel", "--batch", "--signal=USR1", str(job.id))
    job.ends()
    assert job.facts["Restarts"] == "1"
    assert "stopped after step" in job.log
    assert_nothing_was_lost(job, undisturbed)


def test_a_cancelled_job_stays_cancelled(slurm: Slurm, lab: Path) -> None:
    job = submit(slurm, lab)
    job.reaches(5)
    slurm.on("login", "scancel", str(job.id))
    job.ends("CANCELLED", within=300)
    slurm.await_idle()
    # A script that requeues on TERM is pending again by now.
    assert (job.state, job.facts["Restarts"]) == ("CANCELLED", "0")
    assert not (job.folder / "done").exists()
    assert len(job.steps) < load(job.folder).steps


def test_slurm_accepts_the_script_on_any_nodes_and_gpus(slurm: Slurm, lab: Path) -> None:
    for words in ("--nodes=1", "--nodes=3 --gpus-per-node=8", "--nodes=2 --gres=gpu:4 --exclusive --mem=0 --time=24:00:00"):
        slurm.on("login", "sbatch", "--test-only", *words.split(), SCRIPT, "mrd/base", cwd=lab)
    with pytest.raises(AssertionError, match="node configuration is not available"):
        slurm.on("login", "sbatch", "--test-only", "--gpus-per-node=9", SCRIPT, "mrd/base", cwd=lab)


def test_a_recipe_that_does_not_exist_is_refused_before_anything_starts(slurm: Slurm, lab: Path) -> None:
    job = slurm.sbatch([SCRIPT, "dril.yaml"], cwd=lab)
    job.ends("FAILED")
    assert "dril.yaml" in job.log
    assert not job.folder.exists()


@drill
def test_a_sick_node_is_excluded_and_the_job_runs_elsewhere(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    job = submit(slurm, lab, "--gpus-per-node=1", GATE="test $(hostname) != node1")
    job.ends()
    assert job.facts["ExcNodeList"] == "node1"
    assert job.facts["NodeList"] == "node[2-3]"
    assert_nothing_was_lost(job, undisturbed)


@drill
def test_a_job_that_finds_no_node_fit_does_not_go_round_for_ever(slurm: Slurm, lab: Path) -> None:
    job = submit(slurm, lab, GATE="false")
    job.ends("FAILED")
    assert "look at the gate" in job.log
    job = submit(slurm, lab, GATE="test $(hostname) != node1", MAX_RESTARTS="0")
    job.ends("FAILED")
    assert "no more" in job.log


def loses_power(slurm: Slurm, lab: Path) -> Job:
    """A job whose second node has lost its power after the first checkpoint."""
    job = submit(slurm, lab)
    job.reaches(45)
    with slurm.without_power("node2"):
        job.ends()
    assert job.facts["Restarts"] == "1"
    assert job.facts["NodeList"] == "node[1,3]"
    return job


@drill
def test_a_power_failure_that_slurm_notices_first_loses_nothing(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    job = loses_power(slurm, lab)
    assert "unfit" not in job.log
    assert_nothing_was_lost(job, undisturbed)


@drill
def test_a_power_failure_that_the_ranks_notice_first_loses_nothing(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    with slurm.configured("SlurmdTimeout=10", "SlurmdTimeout=130"):
        job = loses_power(slurm, lab)
    assert "unfit: node2" in job.log
    assert_nothing_was_lost(job, undisturbed)


def make_way(slurm: Slurm, lab: Path, job: Job) -> Job:
    """A job of the low partition, after another one has had all its nodes for a while."""
    other = slurm.sbatch(["--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=true"], cwd=lab)
    until(lambda: other.state in OVER, within=300, what="the preempting job")
    assert other.state == "COMPLETED"
    job.ends()
    return job


def preempted(slurm: Slurm, lab: Path) -> Job:
    job = submit(slurm, lab, "--partition=low")
    job.reaches(10)
    return make_way(slurm, lab, job)


@drill
def test_a_preempted_job_that_is_told_goes_on_later(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    job = preempted(slurm, lab)
    assert "USR1" in job.log
    assert_nothing_was_lost(job, undisturbed)


@drill
def test_a_preempted_job_that_is_not_told_goes_on_later(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    with slurm.configured("SlurmctldParameters=preempt_send_user_signal", ""):
        job = preempted(slurm, lab)
    assert "USR1" not in job.log
    assert "Slurm requeues the job" in job.log
    assert_nothing_was_lost(job, undisturbed)


@drill
def test_a_preemption_that_kills_the_gates_says_nothing_of_their_nodes(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    tries = f'[ "${{SLURM_RESTART_COUNT:-0}}" != 0 ] || {{ touch {lab}/trying; sleep 600; }}'
    with slurm.configured("SlurmctldParameters=preempt_send_user_signal", ""):
        job = submit(slurm, lab, "--partition=low", GATE=tries)
        until((lab / "trying").exists, within=120, what="the gate of the first start")
        make_way(slurm, lab, job)
    assert "Slurm requeues the job" in job.log
    assert "unfit" not in job.log
    assert job.facts["ExcNodeList"] == "(null)"
    assert_nothing_was_lost(job, undisturbed)


@drill
def test_a_run_folder_goes_on_with_what_it_began_with_when_the_recipe_has_changed(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    (lab / "edited.yaml").write_text((lab / "drill.yaml").read_text())
    job = slurm.sbatch(["--nodes=2", SCRIPT, "edited.yaml"], cwd=lab)
    job.reaches(10)
    (lab / "edited.yaml").write_text("nonsense: true")
    slurm.on("login", "scancel", "--batch", "--signal=USR1", str(job.id))
    job.ends()
    assert_nothing_was_lost(job, undisturbed)


def gate(folder: Path, gpus: int) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "RUN": str(folder), "SLURMD_NODENAME": "here", "SLURM_GPUS_ON_NODE": str(gpus)}
    command = ["bash", str(ROOT / "slurm" / "gate.sh")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_the_gate_refuses_a_node_without_the_folder_or_with_other_gpus_than_asked_for(tmp_path: Path) -> None:
    assert gate(tmp_path, 0).returncode == 0
    assert not list(tmp_path.iterdir())
    assert gate(tmp_path / "nowhere", 0).returncode != 0
    short = gate(tmp_path, torch.cuda.device_count() + 1)
    assert short.returncode != 0
    assert "GPUs instead of" in short.stderr


def test_without_a_cluster_the_script_says_what_it_wants() -> None:
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "RECIPE" in done.stderr
