"""Runs are started on this machine: never twice in one folder, whoever died meanwhile."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from mrdist.cli import launching
from mrdist.cli.launching import LOG, launcher, local
from mrdist.errors import RecipeError
from tests.waiting import LATE, until


def test_a_run_that_fails_ends_and_says_why_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("bath: 3\n")
    ticks: list[bool] = []
    local([tmp_path], {"jobs": "2"}, lambda: ticks.append(True))
    assert "error:" in (tmp_path / LOG).read_text()
    assert ticks


def test_a_run_that_somebody_left_behind_is_waited_for_and_not_begun_again(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        looks: list[bool] = []
        waiting = threading.Thread(target=local, args=([tmp_path], {}, lambda: looks.append(True)), daemon=True)
        waiting.start()
        until(lambda: len(looks) > 2, "three looks")
        assert waiting.is_alive()
        (tmp_path / "done").touch()
    waiting.join(LATE)
    assert not waiting.is_alive()
    assert not (tmp_path / LOG).exists()


@pytest.mark.parametrize(("words", "said"), [({"jobs": "two"}, "jobs=2"), ({"site": "lab"}, "launcher=slurm")])
def test_words_that_mean_nothing_here_are_refused(tmp_path: Path, words: dict[str, str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        local([tmp_path], words, lambda: None)


Stand = Callable[[str], list["subprocess.Popen[bytes]"]]


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Puts a program in the place of `mrdist train`; gives back the list of those that were started."""
    started: list[subprocess.Popen[bytes]] = []

    def standing(program: str) -> list[subprocess.Popen[bytes]]:
        def begin(folder: Path, lock: IO[bytes], place: int, jobs: int) -> launching._Child:
            command = [sys.executable, "-c", f"import pathlib, time\nstop = pathlib.Path('stop')\n{program}"]
            started.append(subprocess.Popen(command, cwd=folder, pass_fds=[lock.fileno()], start_new_session=True))
            return launching._Child(started[-1], lock, place)

        monkeypatch.setattr(launching, "_started", begin)
        return started

    return standing


def enough() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_reaches_a_run_that_only_now_begins(tmp_path: Path, stand: Stand) -> None:
    look = "while not stop.exists(): time.sleep(0.05)"
    started = stand(f"{look}\nstop.unlink()\n{look}")
    with pytest.raises(KeyboardInterrupt):
        local([tmp_path], {}, enough)
    assert started[0].returncode == 0


def test_a_second_ctrl_c_leaves_nobody_at_work(tmp_path: Path, stand: Stand) -> None:
    started = stand("time.sleep(600)")
    here = threading.get_ident()

    def again() -> None:
        until((tmp_path / "stop").exists, "the first one's work")
        signal.pthread_kill(here, signal.SIGINT)

    threading.Thread(target=again, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        local([tmp_path], {}, enough)
    assert started[0].returncode == -signal.SIGKILL


def test_a_run_that_does_not_end_is_not_waited_for_for_ever(
    tmp_path: Path, stand: Stand, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launching, "ENDING", 1.0)
    started = stand("time.sleep(600)")
    with pytest.raises(KeyboardInterrupt):
        local([tmp_path], {}, enough)
    assert started[0].returncode == -signal.SIGKILL
    assert str(tmp_path) in capsys.readouterr().err


def test_an_unknown_launcher_is_answered_with_the_nearest() -> None:
    assert launcher("local") is local
    with pytest.raises(RecipeError, match="launcher=local"):
        launcher("locl")
