"""What a Ray task does in a run folder, and how Ctrl-C reaches it: without Ray."""

from __future__ import annotations

import fcntl
import logging
from pathlib import Path
from typing import Any

import pytest

from mrdist.cli.launching import LOG
from mrdist_cluster import launching


def test_a_run_that_goes_on_although_its_ray_process_died_is_not_begun_again(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("bath: 3\n")
    with (tmp_path / "lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert launching._train(str(tmp_path), ".") == launching.TAKEN
    assert not (tmp_path / LOG).exists()
    (tmp_path / "done").touch()
    assert launching._train(str(tmp_path), ".") == 0
    assert not (tmp_path / LOG).exists()
    (tmp_path / "done").unlink()
    assert launching._train(str(tmp_path), ".") > 0
    assert "error:" in (tmp_path / LOG).read_text()


def test_ctrl_c_reaches_a_task_whose_run_only_now_begins(tmp_path: Path) -> None:
    looks: list[bool] = []

    def wait(tasks: list[Any], **words: Any) -> tuple[list[Any], list[Any]]:
        looks.append((tmp_path / "stop").exists())
        (tmp_path / "stop").unlink(missing_ok=True)
        return (tasks, []) if len(looks) == 3 else ([], tasks)

    launching._end({"task": tmp_path}, wait)
    assert looks == [True, True, True]


def test_runs_that_may_be_at_work_after_a_second_ctrl_c_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def wait(tasks: list[Any], **words: Any) -> tuple[list[Any], list[Any]]:
        raise KeyboardInterrupt

    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        launching._end({"task": tmp_path}, wait)
    assert f"touch {tmp_path}/stop" in caplog.text
