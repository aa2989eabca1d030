"""How the first task of a submitted job hears that its time is up, and sends the job back."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from mrdist_cluster import slurm
from mrdist_cluster.task import Ear
from tests.waiting import until

Answer = Any  # what the signal module takes and gives


class Requeue:
    """In submitit's place: is refused some times."""

    def __init__(self, refusals: int) -> None:
        self.calls, self.refusals = 0, refusals

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.calls += 1
        if self.calls <= self.refusals:
            raise subprocess.CalledProcessError(1, ["scontrol", "requeue", "7"])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "AGAIN", 0.01)


def test_a_controller_that_restarts_does_not_keep_a_job_from_the_queue(tmp_path: Path, quick: None) -> None:
    requeue = Requeue(refusals=3)
    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with Ear(tmp_path / "stop", patience=60) as ear:
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)
            until((tmp_path / "stop").exists, "the stop file", within=60)
        assert ear.heard
        ear.send_back()
        assert requeue.calls == 4
        assert signal.getsignal(signal.SIGUSR2) is requeue
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_refusal_that_lasts_is_told(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "ASK", 0.2)
    before = signal.signal(signal.SIGUSR2, Requeue(refusals=1_000_000))
    try:
        with Ear(tmp_path / "stop", patience=60) as ear, pytest.raises(subprocess.CalledProcessError):
            ear.send_back()
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_signal_is_heard_from_the_moment_that_submitit_hears_it_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitits: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: submitits.append(number))
    change = signal.signal

    def followed(number: int, answer: Answer) -> Answer:
        found = change(number, answer)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)
        return found

    try:
        with monkeypatch.context() as patched:
            patched.setattr(signal, "signal", followed)
            with Ear(tmp_path / "stop", patience=60) as ear:
                until(lambda: ear.heard, "a signal right after the handler was changed", within=60)
        assert submitits, "and right after it was put back"
    finally:
        change(signal.SIGUSR2, before)
