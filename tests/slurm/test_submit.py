"""`mrdist submit`, `jobs`, `logs` and `why` on a real Slurm: what is interrupted goes on, and one learns what became of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mrdist.recipe import load, to_yaml
from mrdist.training.folder import lines
from tests.slurm.real import Slurm, until

SITE = "partition: gpu\nnodes: 3\ngpus: 1\ncores: 4\ndevice: core\nhours: 2\n"
CURVE = ("step", "loss", "terms", "gradient_norm", "shapes")

drill = pytest.mark.drill


def mrdist(slurm: Slurm, lab: Path, *words: str, within: float = 300) -> str:
    """What a verb says on the login host."""
    return slurm.on("login", sys.executable, "-m", "mrdist", *words, cwd=lab, env=environment(), within=within)


def environment() -> dict[str, str]:
    """Ours, without another job's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    return {**kept, "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Submitted:
    """A run that was submitted."""

    slurm: Slurm
    lab: Path
    job: str
    folder: Path

    @property
    def steps(self) -> list[dict[str, Any]]:
        file = self.folder / "metrics.jsonl"
        return list(lines(file)) if file.is_file() else []

    @property
    def state(self) -> str:
        """As `mrdist jobs` says it."""
        rows = json.loads(mrdist(self.slurm, self.lab, "jobs", "--json"))
        return str(next(row["state"] for row in rows if row["job"] == self.job))

    def reaches(self, step: int, *, within: float = 300) -> None:
        until(lambda: bool(self.steps) and self.steps[-1]["step"] >= step, within=within, what=f"{self.folder} at step {step}")

    def ends(self, state: str = "done", *, within: float = 400) -> None:
        """Return when the run has come to an end, which must be `state`."""
        until(lambda: self.state in ("done", "failed", "stopped"), within=within, what=f"the end of {self.folder}")
        assert self.state == state, mrdist(self.slurm, self.lab, "why", str(self.folder))

    def curve(self) -> list[dict[str, Any]]:
        return [{name: step[name] for name in CURVE} for step in self.steps]


def submit(slurm: Slurm, lab: Path, *words: str) -> list[Submitted]:
    (lab / "site.yaml").write_text(SITE)
    said = json.loads(mrdist(slurm, lab, "submit", "drill.yaml", "site=site.yaml", *words, "--json"))
    return [Submitted(slurm, lab, one["job"], lab / one["run"]) for one in said]


@pytest.fixture(scope="module")
def undisturbed(slurm: Slurm, lab: Path) -> Submitted:
    """A run on two nodes that nobody disturbed."""
    (run,) = submit(slurm, lab, "nodes=2")
    run.ends()
    return run


def test_a_submitted_recipe_trains_on_two_nodes_and_is_measured(slurm: Slurm, lab: Path, undisturbed: Submitted) -> None:
    assert [step["step"] for step in undisturbed.steps] == list(range(1, 161))
    assert (undisturbed.folder / "report.json").is_file()
    said = mrdist(slurm, lab, "logs", undisturbed.folder.name)
    assert "0: | test " in said
    assert any(line.startswith("1: ") and "on node2" in line for line in said.splitlines())


def test_an_interrupted_job_goes_on_from_the_queue_with_the_undisturbed_curve(
    slurm: Slurm, lab: Path, undisturbed: Submitted, lingering: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", lingering)
    (run,) = submit(slurm, lab, "nodes=2")
    run.reaches(10)
    slurm.on("login", "scancel", "--signal=USR2", run.job)  # as Slurm does before the end of a window, and before it takes nodes away
    run.ends()
    assert "stopped after step" in mrdist(slurm, lab, "logs", str(run.folder), "rank=0")
    assert len((run.folder / "command.txt").read_text().splitlines()) == 2
    assert run.curve() == undisturbed.curve()


@drill
def test_a_preempted_job_that_is_not_told_goes_on_with_the_undisturbed_curve(slurm: Slurm, lab: Path, undisturbed: Submitted) -> None:
    (lab / "low.yaml").write_text(SITE.replace("partition: gpu", "partition: low"))
    with slurm.configured("SlurmctldParameters=preempt_send_user_signal", ""):
        (run,) = submit(slurm, lab, "nodes=2", "site=low.yaml")
        run.reaches(10)
        slurm.sbatch(["--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=true"], cwd=lab)
        run.ends(within=300)
    assert "preempted" in mrdist(slurm, lab, "logs", str(run.folder), "rank=0")
    assert run.curve() == undisturbed.curve()


@drill
def test_a_cancelled_job_stays_cancelled_and_goes_on_when_it_is_submitted_again(
    slurm: Slurm, lab: Path, undisturbed: Submitted, lingering: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as slowly:
        slowly.setenv("PYTHONPATH", lingering)
        slowly.setenv("LINGER", "0.5")
        (run,) = submit(slurm, lab, "nodes=2")
    run.reaches(10)
    with pytest.raises(AssertionError, match="a run that no job works on"):
        mrdist(slurm, lab, "submit", str(run.folder), "site=site.yaml")
    assert "to go on" in mrdist(slurm, lab, "jobs", "cancel", run.folder.name)
    run.ends("stopped")
    mrdist(slurm, lab, "submit", str(run.folder), "site=site.yaml", "nodes=2")
    until((run.folder / "done").exists, within=300, what="the run goes on")
    assert run.curve() == undisturbed.curve()


@drill
def test_lists_of_values_make_an_array_of_runs(slurm: Slurm, lab: Path) -> None:
    runs = submit(slurm, lab, "seed=0,1", "steps=20", "parallel=1")
    assert [run.job.split("_")[1] for run in runs] == ["0", "1"]
    for run in runs:
        run.ends()
    first, second = ([step["loss"] for step in run.steps] for run in runs)
    assert len(first) == len(second) == 20
    assert first != second
    ends = [run.steps[-1]["time"] for run in runs]
    assert runs[1].steps[0]["time"] > ends[0], "at most one at a time"


@drill
def test_the_runs_of_an_experiment_are_one_array_and_are_waited_for(slurm: Slurm, lab: Path) -> None:
    (lab / "site.yaml").write_text(SITE)
    runs = [lab / "runs" / "experiment" / f"seed{seed}" for seed in (0, 1)]
    for seed, run in enumerate(runs):
        run.mkdir(parents=True)
        (run / "recipe.yaml").write_text(to_yaml(load(lab / "drill.yaml", [f"seed={seed}", "steps=20"])))
    program = (
        "import sys; from pathlib import Path; from mrdist_cluster.launching import slurm;"
        "slurm([Path(word) for word in sys.argv[1:]], {'site': 'site.yaml', 'jobs': '2'}, lambda: print('tick'))"
    )
    said = slurm.on("login", sys.executable, "-c", program, *map(str, runs), cwd=lab, env=environment(), within=300)
    assert "tick" in said
    assert all((run / "done").exists() for run in runs)


def test_a_job_does_not_submit_jobs(slurm: Slurm, lab: Path) -> None:
    (lab / "site.yaml").write_text(SITE)
    call = f"{sys.executable} -m mrdist submit drill.yaml site=site.yaml"
    job = slurm.sbatch([f"--output={lab}/nested.out", "--nodes=1", f"--wrap={call}"], cwd=lab)
    job.ends("FAILED")
    assert f"a call from inside job {job.id}" in (lab / "nested.out").read_text()


@drill
def test_a_shell_in_an_allocation_may_submit_and_leaves_nothing_of_its_own(slurm: Slurm, lab: Path) -> None:
    (lab / "site.yaml").write_text(SITE)
    call = [sys.executable, "-m", "mrdist", "submit", "drill.yaml", "site=site.yaml", "steps=20", "--json"]
    # As `salloc` opens it, with what often comes along: SLURM_CPU_BIND once pinned eight ranks to four cores.
    shell = ["env", "SLURM_CPU_BIND=mask_cpu:0x1", "SBATCH_PARTITION=nowhere", "salloc", "--quiet", "--nodes=1", *call]
    said = slurm.on("login", *shell, cwd=lab, env=environment(), within=300)
    (given,) = json.loads(said)
    assert "SLURM_CPU_BIND" not in slurm.on("login", "scontrol", "write", "batch_script", given["job"], "-")
    run = Submitted(slurm, lab, given["job"], lab / given["run"])
    run.ends()


@drill
def test_why_names_the_rank_that_was_killed(slurm: Slurm, lab: Path) -> None:
    (run,) = submit(slurm, lab, "nodes=2", "steps=4000")
    until((run.folder / "ranks" / "0001.stamp").exists, within=300, what="a sign of life of rank 1")
    run.reaches(45)  # past a checkpoint
    pids: Sequence[str] = slurm.on("node2", "pgrep", "--oldest", "--full", "python.*submitit.core._submit").split()
    slurm.on("node2", "kill", "-KILL", *pids)
    run.ends("failed")
    said = mrdist(slurm, lab, "why", str(run.folder))
    assert "rank 1 ended without a word" in said
    assert "task 1: Killed" in said
    assert "goes on from step" in said
