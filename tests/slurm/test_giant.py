"""slurm/pretrain_giant.sh on a real Slurm: Ray renders, teaches and trains, and whoever dies, no shape is lost and none trained twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from mrdist.recipe import load
from tests.slurm.conftest import ROOT
from tests.slurm.evidence import assert_nothing_was_lost, once_per_epoch
from tests.slurm.real import OVER, Job, Slurm, until

pytest.importorskip("ray", reason="pretrain_giant.sh needs Ray: ./install.sh '.[cluster]'")

SCRIPT = str(ROOT / "slurm" / "pretrain_giant.sh")

# The giant's own recipe, smaller. A rank takes three cores of a node's five, so that two are on two nodes.
SMALLER = """
name=drill steps=100 batch=58 points=128 sample=64 workers=1 views.ring=front4 views.pixels=16 optim.warmup=10
data=synthetic data.train=4 data.val=1 data.test=1 data.unseen=1
teacher=fitted teacher.pixels=32 teacher.steps=4 teacher.batch=8 teacher.text_width=32 teacher.channels=8 teacher.width=32
student=micro student.dim=24 student.depth=1 student.heads=3 student.groups=8 student.group_size=8
watch.log_every=20 watch.save_every=25 watch.evaluate_every=0 watch.pictures_every=0 watch.shapes=true
pools.renderers=[1,1] pools.teachers=[1,1] pools.trainer_cores=3 engine.precision=fp32
"""
CORES = "--cpus-per-task=5"

drill = pytest.mark.drill


def submit(slurm: Slurm, lab: Path, *words: str, store: str = "giant-store", change: str = "live=true", **environment: str) -> Job:
    recipe = ["mrd/giant", *SMALLER.split(), f"store={store}", change]
    return slurm.sbatch([CORES, *(words or ["--nodes=2"]), SCRIPT, *recipe], cwd=lab, **environment)


@pytest.fixture(scope="session")
def undisturbed(slurm: Slurm, lab: Path) -> Job:
    """A job that nobody disturbed, from meshes to figures; what it prepared is there for other jobs."""
    job = submit(slurm, lab)
    job.ends()
    return job


def kill(slurm: Slurm, work: str, *nodes: str) -> None:
    """kill -9 to the first process at such work, on whatever node, or on one of these."""

    def found() -> bool:
        for node in nodes or slurm.nodes:
            with suppress(AssertionError):  # nobody here
                slurm.on(node, "kill", "-KILL", slurm.on(node, "pgrep", "--full", work).split()[0])
                return True
        return False

    until(found, within=300, what=work)


def assert_nothing_is_left(slurm: Slurm) -> None:
    """No process of Ray, and no folder of it."""
    for node in slurm.nodes:
        assert "ray" not in slurm.on(node, "ps", "-eo", "args", "--no-headers")
        assert not [name for name in slurm.on(node, "ls", "/tmp").split() if name.startswith("ray")]


def test_meshes_become_figures_on_two_nodes_through_a_requeue(slurm: Slurm, lab: Path) -> None:
    job = submit(slurm, lab, store="first-store")
    job.reaches(10)
    slurm.on("login", "scancel", "--batch", "--signal=USR1", str(job.id))
    job.ends()
    assert job.facts["Restarts"] == "1"
    assert "stopped after step" in job.log
    assert re.search(r"train +2 x 3 cores", job.log)
    assert "Zero-shot classification" in job.log
    assert "Traceback" not in job.log
    assert "srun: error" not in job.log
    assert once_per_epoch(job)
    assert (job.folder / "done").is_file()
    assert oct((job.folder / "ray" / "token").stat().st_mode & 0o777) == "0o600"
    assert {"0000.log", "0001.log"} <= {file.name for file in (job.folder / "ranks").iterdir()}
    assert_nothing_is_left(slurm)


def test_slurm_accepts_the_script_on_any_nodes_and_gpus_and_on_nodes_of_two_kinds(slurm: Slurm, lab: Path) -> None:
    for words in ("--nodes=1", "--nodes=3 --gpus-per-node=8", "--nodes=2 --gpus-per-node=8 --exclusive : --nodes=1 --cpus-per-task=64"):
        slurm.on("login", "sbatch", "--test-only", *words.split(), SCRIPT, "mrd/giant", cwd=lab)


def test_without_a_cluster_the_scripts_say_what_they_want() -> None:
    for script, wanted in ((SCRIPT, "RECIPE"), (str(ROOT / "slurm" / "evaluate.sh"), "RUN")):
        done = subprocess.run(["bash", script], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 1
        assert wanted in done.stderr


@drill
def test_a_run_is_measured_again_by_two_ranks(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    (undisturbed.folder / "report.json").rename(undisturbed.folder / "report-before.json")
    script = str(ROOT / "slurm" / "evaluate.sh")
    slurm.sbatch(["--cpus-per-task=2", script, str(undisturbed.folder)], cwd=lab, RANKS="2").ends()
    before, after = (json.loads((undisturbed.folder / name).read_text()) for name in ("report-before.json", "report.json"))
    assert after == before


@drill
def test_what_is_prepared_while_ranks_train_gives_the_curve_of_a_prepared_store(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    job = submit(slurm, lab)
    job.ends()
    assert "render" not in job.log
    assert_nothing_was_lost(job, undisturbed)


@drill
@pytest.mark.parametrize("who", ["RenderActor.*submit", "TeachActor.*submit"])
def test_a_renderer_or_teacher_that_is_killed_is_not_missed(slurm: Slurm, lab: Path, undisturbed: Job, who: str) -> None:
    job = submit(slurm, lab, store=f"without-{who[:6]}")
    kill(slurm, who)
    job.ends()
    assert job.facts["Restarts"] == "0"
    assert_nothing_was_lost(job, undisturbed)


@drill
@pytest.mark.parametrize(
    "who", [("ray::RayTrainWorker",), ("mrdist_cluster train",), ("raylet/raylet", "node1"), ("raylet/raylet", "node2")], ids=" on ".join
)
def test_a_rank_or_driver_or_ray_that_is_killed_is_begun_again(slurm: Slurm, lab: Path, undisturbed: Job, who: tuple[str, ...]) -> None:
    job = submit(slurm, lab)
    job.reaches(30)
    kill(slurm, *who)
    job.ends()
    assert job.facts["Restarts"] == "0"
    assert_nothing_was_lost(job, undisturbed)


@drill
def test_a_cancelled_job_stays_cancelled(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    job = submit(slurm, lab)
    job.reaches(5)
    slurm.on("login", "scancel", str(job.id))
    job.ends("CANCELLED", within=300)
    slurm.await_idle()
    # A script that requeues on TERM is pending again by now.
    assert (job.state, job.facts["Restarts"]) == ("CANCELLED", "0")
    assert len(job.steps) < load(job.folder).steps


@drill
@pytest.mark.parametrize("told", [True, False])
def test_a_preempted_job_goes_on_later(slurm: Slurm, lab: Path, undisturbed: Job, told: bool) -> None:
    telling = "SlurmctldParameters=preempt_send_user_signal"
    with slurm.configured(telling, telling if told else ""):
        job = submit(slurm, lab, "--nodes=2", "--partition=low")
        job.reaches(10)
        other = slurm.sbatch(["--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=true"], cwd=lab)
        until(lambda: other.state in OVER, within=300, what="the preempting job")
        job.ends()
    assert ("USR1" in job.log) == told
    assert ("Slurm requeues the job" in job.log) != told
    assert "stopped after step" in job.log
    assert_nothing_was_lost(job, undisturbed)


@drill
@pytest.mark.parametrize("node", ["node1", "node2"])
def test_a_power_failure_that_slurm_notices_loses_nothing(slurm: Slurm, lab: Path, undisturbed: Job, node: str) -> None:
    job = submit(slurm, lab)
    job.reaches(30)
    with slurm.without_power(node):
        job.ends()
    assert job.facts["Restarts"] == "1"
    assert node not in job.facts["NodeList"]
    assert_nothing_was_lost(job, undisturbed)


@drill
def test_until_slurm_notices_a_power_failure_the_other_nodes_go_on(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    with slurm.configured("SlurmdTimeout=10", "SlurmdTimeout=300"):
        job = submit(slurm, lab)
        job.reaches(30)
        with slurm.without_power("node2"):
            until(lambda: f"mrdist-{job.id} is done" in job.log, within=900, what=f"the end of job {job.id} on the other node")
        job.ends()  # which Slurm believes only of nodes that answer
    assert job.facts["Restarts"] == "0"
    # One rank adds up what two did, and seventy steps go by: seen were 3e-4 of the loss, 5e-3 of a gradient norm.
    assert_nothing_was_lost(job, undisturbed, within=2e-2)


@drill
def test_a_sick_node_is_excluded_and_the_job_runs_elsewhere(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    job = submit(slurm, lab, GATE="test $(hostname) != node1")
    job.ends()
    assert job.facts["ExcNodeList"] == "node1"
    assert_nothing_was_lost(job, undisturbed)


def starts_ray(lab: Path, name: str, action: str) -> str:
    """A PYTHONPATH with which `ray start` does something first on the node or with the words that a condition names."""
    folder = lab / name
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"import os, sys, time\nif 'start' in sys.orig_argv:\n    {action}\n")
    return str(folder)


@drill
def test_a_head_that_is_slow_to_come_up_is_waited_for(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    path = starts_ray(lab, "slow-head", "'--head' in sys.orig_argv and time.sleep(40)")
    job = submit(slurm, lab, PYTHONPATH=path)
    job.ends()
    assert job.facts["Restarts"] == "0"
    assert int(re.findall(r"2 nodes after (\d+) s", job.log)[0]) >= 40
    assert_nothing_was_lost(job, undisturbed)


@drill
def test_a_node_that_does_not_join_is_named_and_left_out(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    path = starts_ray(lab, "never-joins", "os.uname().nodename == 'node2' and time.sleep(1000)")
    job = submit(slurm, lab, PYTHONPATH=path, RAY_SECONDS="60")
    job.ends()
    assert "wanted 2 nodes within 60 s, got 1: node2 is missing" in job.log
    assert job.facts["ExcNodeList"] == "node2"
    assert_nothing_was_lost(job, undisturbed)


@drill
def test_a_ray_that_starts_nowhere_does_not_go_round_for_ever(slurm: Slurm, lab: Path) -> None:
    job = submit(slurm, lab, "--nodes=1", PYTHONPATH=starts_ray(lab, "no-ray", "sys.exit('no Ray today')"))
    job.ends("FAILED")
    assert job.facts["Restarts"] == "2"
    assert "no Ray today" in job.log


@drill
def test_two_jobs_of_a_user_on_one_node_do_not_meet_and_remove_what_a_killed_one_left(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    slurm.on("node1", "bash", "-c", "mkdir /tmp/ray-1 && touch /tmp/ray-1/spilled /tmp/ray-1.lock")
    both = [submit(slurm, lab, "--nodes=2", "--nodelist=node[1-2]") for _ in range(2)]
    for job in both:
        job.ends()
        assert_nothing_was_lost(job, undisturbed)
    for node in ("node1", "node2"):
        assert "ray-" not in slurm.on(node, "ls", "/tmp")


@drill
def test_nodes_of_another_kind_join(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    job = submit(slurm, lab, "--nodes=2", ":", "--nodes=1", "--cpus-per-task=2", store="wide-store")
    job.reaches(10)
    slurm.on("login", "scancel", "--batch", "--signal=USR1", str(job.id))
    job.ends()
    assert "3 nodes: 12 cores" in job.log
    assert_nothing_was_lost(job, undisturbed)
    job = submit(slurm, lab, "--nodes=1", ":", "--nodes=1", GATE="test $(hostname) != node2")
    job.ends()
    assert job.facts["ExcNodeList"] == "node2"


def fill(folder: Path) -> Path:
    """A file that takes all that is free on a disk."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    return ballast


def goes_on(slurm: Slurm, job: Job) -> None:
    """The same job once more, after somebody has put right what was wrong."""
    slurm.on("login", "scontrol", "requeue", str(job.id))
    until(lambda: job.state not in OVER, within=300, what="the job goes on")
    job.ends()


@drill
def test_a_disk_that_fills_while_ranks_train_ends_a_job_that_can_go_on(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    with slurm.disk(lab / "small", megabytes=60):
        job = submit(slurm, lab, change="pools.restarts=1", RUNS="small")
        job.reaches(30)
        ballast = fill(lab / "small")
        job.ends("FAILED")
        assert "No space left" in job.log
        ballast.unlink()
        goes_on(slurm, job)
        assert_nothing_was_lost(job, undisturbed)


@drill
def test_a_disk_that_fills_while_shards_are_written_ends_a_job_that_can_go_on(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    with slurm.disk(lab / "narrow", megabytes=60):
        (meshes,) = (lab / "giant-store").glob("synthetic-*")
        shutil.copytree(meshes, lab / "narrow" / "store" / meshes.name)
        ballast = fill(lab / "narrow")
        job = submit(slurm, lab, store="narrow/store")
        job.ends("FAILED")
        assert "No space left" in job.log
        ballast.unlink()
        goes_on(slurm, job)
        assert_nothing_was_lost(job, undisturbed)


@drill
def test_a_shard_that_was_cut_is_made_again(slurm: Slurm, lab: Path, undisturbed: Job) -> None:
    shutil.copytree(lab / "giant-store", lab / "cut-store")
    part = sorted((lab / "cut-store" / "triplets").glob("*/00001-*.safetensors"))[0]
    os.truncate(part, part.stat().st_size // 2)
    job = submit(slurm, lab, store="cut-store")
    job.ends()
    assert_nothing_was_lost(job, undisturbed)
