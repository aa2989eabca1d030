"""Runs are started on this machine: never twice in one folder, whoever died meanwhile."""

from __future__ import annotations

import fcntl
import threading
import time
from pathlib import Path

import pytest

from mrdist.cli.launching import LOG, launcher, local
from mrdist.errors import RecipeError


def test_a_run_that_fails_ends_and_says_why_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("bath: 3\n")
    ticks: list[float] = []
    local([tmp_path], {"jobs": "2"}, lambda: ticks.append(time.monotonic()))
    assert "error:" in (tmp_path / LOG).read_text()
    assert ticks


def test_a_run_that_somebody_left_behind_is_waited_for_and_not_begun_again(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=local, args=([tmp_path], {}, lambda: None))
        waiting.start()
        time.sleep(1.2)
        assert waiting.is_alive()
        (tmp_path / "done").touch()
    waiting.join(timeout=30)
    assert not waiting.is_alive()
    assert not (tmp_path / LOG).exists()


@pytest.mark.parametrize(("words", "said"), [({"jobs": "two"}, "jobs=2"), ({"site": "lab"}, "launcher=slurm")])
def test_words_that_mean_nothing_here_are_refused(tmp_path: Path, words: dict[str, str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        local([tmp_path], words, lambda: None)


def test_an_unknown_launcher_is_answered_with_the_nearest() -> None:
    assert launcher("local") is local
    with pytest.raises(RecipeError, match="launcher=local"):
        launcher("locl")
