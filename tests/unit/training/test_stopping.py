"""Signals and the file `stop`: whoever asks is heard."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from mrdist.training.stopping import SIGNALS, Stop


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_heard_even_while_the_file_is_looked_for(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Stop(tmp_path / "stop", every=0)
    try:
        assert not stop.asked

        def looks(path: Path) -> bool:
            os.kill(os.getpid(), number)
            return False

        with monkeypatch.context() as patched:
            patched.setattr(Path, "exists", looks)
            heard = stop.asked
        assert heard
    finally:
        stop.close()


def test_the_file_is_heard_once_it_is_there_also_when_it_is_taken_away_again(tmp_path: Path) -> None:
    stop = Stop(tmp_path / "stop", every=0)
    try:
        assert not stop.asked
        (tmp_path / "stop").touch()
        assert stop.asked
        (tmp_path / "stop").unlink()
        assert stop.asked
    finally:
        stop.close()


def test_a_second_interrupt_interrupts_and_whoever_listened_before_listens_again(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    stop = Stop()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        stop.close()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_thread_that_may_not_listen_to_signals_looks_for_the_file_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(Stop(tmp_path / "stop").asked))
    thread.start()
    thread.join()
    assert seen == [True]
