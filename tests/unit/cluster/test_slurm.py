"""What a submission must not inherit, and where it is refused; and that a machine without Slurm is no error."""

from __future__ import annotations

import os

import pytest

from mrdist_cluster import slurm


@pytest.mark.parametrize(
    "environment", [{"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7"}, {"ENVIRONMENT": "BATCH", "SLURM_JOB_ID": "7"}]
)
def test_a_job_does_not_submit_jobs(environment: dict[str, str]) -> None:
    with pytest.raises(slurm.SlurmError, match="from inside job 7"):
        slurm.refuse_inside(environment)


def test_a_shell_in_an_allocation_may_submit() -> None:
    slurm.refuse_inside({"SLURM_JOB_ID": "7"})
    slurm.refuse_inside({})


def test_what_another_job_or_launcher_left_in_the_environment_is_forgotten_for_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = ("SLURM_JOB_ID", "SLURM_CPU_BIND", "SBATCH_PARTITION", "MASTER_PORT", "RANK")
    kept = ("SLURM_CONF", "SBATCH_ACCOUNT", "MASTER_PORTS", "OMP_NUM_THREADS")
    for name in (*gone, *kept):
        monkeypatch.setenv(name, "1")
    before = dict(os.environ)
    with slurm.forgetting(keep=["SBATCH_ACCOUNT"]):
        assert not set(gone) & os.environ.keys()
        assert set(kept) <= os.environ.keys()
        assert set(before) - set(os.environ) == set(gone) | {name for name in before if slurm.OURS.match(name) and name not in kept}
    assert dict(os.environ) == before


def test_a_machine_without_slurm_has_an_empty_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    slurm.here.cache_clear()
    try:
        assert slurm.queue() == {}
        assert slurm.facts("7") == {}
        assert not slurm.preempted("7")
    finally:
        slurm.here.cache_clear()


def test_whether_a_job_was_preempted_is_asked_until_slurm_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    began = "2026-01-01T10:00:00"
    answers = [{}, {"JobState": "RUNNING"}, {"StartTime": began, "PreemptTime": "2026-01-01T11:00:00"}]
    monkeypatch.setattr(slurm, "here", lambda: True)
    monkeypatch.setattr(slurm, "AGAIN", 0.01)
    monkeypatch.setattr(slurm, "facts", lambda job: answers.pop(0))
    assert slurm.preempted("7")
    answers = [{"StartTime": began, "PreemptTime": "2026-01-01T09:00:00"}]
    assert not slurm.preempted("7")
    answers = [{}]
    assert not slurm.preempted("7", within=0)


def test_a_job_of_several_parts_is_known_by_the_number_of_its_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "here", lambda: True)
    said = "123+1|mrdist|PENDING|(Priority)\n123+0|mrdist|PENDING|(Resources)\n42_1|x|RUNNING|n1\n"
    monkeypatch.setattr(slurm, "_ask", lambda *words: said)
    queue = slurm.queue()
    assert queue["123"] == slurm.Queued("mrdist", "pending", "Resources")
    assert queue["42_1"].state == "running"
