"""Who is said to be missing when the nodes of a job do not come together, and what the job does then."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.unit.cluster.test_job_script import ROOT, Shell, asked, shell

__all__ = ["shell"]
MINE = str(os.getpid())
GONE = "4194999"  # no process has such a number


class Ray(SimpleNamespace):
    """A Ray of one node, that may fail."""

    def __init__(self, *, wrong: dict[str, Exception]) -> None:
        super().__init__(wrong=wrong, on=False)

    def is_initialized(self) -> bool:
        return bool(self.on)

    def init(self, **words: Any) -> None:
        if "init" in self.wrong:
            raise self.wrong.pop("init")
        self.on = True

    def shutdown(self) -> None:
        self.on = False

    def nodes(self) -> list[dict[str, Any]]:
        if "nodes" in self.wrong:
            raise self.wrong.pop("nodes")
        return [{"NodeName": "node1", "Alive": True}]


@pytest.fixture
def handshake(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("handshake", ROOT / "slurm" / "handshake.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ray", Ray(wrong={}))  # type: ignore[arg-type]
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Somebody listens where the head would."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        yield server


@pytest.mark.parametrize("call", ["init", "nodes"])
def test_whatever_ray_says_of_a_head_that_is_not_all_there_it_is_asked_again(handshake: Any, port: Any, call: str) -> None:
    handshake.ray = Ray(wrong={call: ValueError("who are you?")})
    assert handshake.main(30, {"node1": MINE}) == 0


def test_what_ray_said_last_stands_beside_who_is_missing(handshake: Any, port: Any, capsys: pytest.CaptureFixture[str]) -> None:
    handshake.ray = Ray(wrong={"init": ValueError("who are you?")})
    assert handshake.main(0, {"node1": MINE}) == 1
    said = capsys.readouterr()
    assert said.out == "node1\n"
    assert "node1 is missing (ValueError: who are you?)" in said.err


def test_a_head_whose_process_has_ended_is_missing_and_not_asked(
    handshake: Any, port: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "come", lambda address: pytest.fail("it would be waited for"))
    assert handshake.main(30, {"node1": GONE, "node2": MINE}) == 1
    assert capsys.readouterr().out == "node1\n"


UP = 'export SLURMD_NODENAME=node1; python() { eval "$ANSWER"; }; source $here/ray.sh; ray_up'


def test_a_handshake_without_an_answer_blames_nobody_and_is_tried_again(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "runs" / "mrdist-7" / "ray").mkdir()
    (tmp_path / "runs" / "mrdist-7" / "ray" / "missing").write_text("node2\n")
    done = shell(UP, ANSWER="return 1")
    assert "the nodes could not be counted" in done.stdout
    assert done.returncode == 0
    assert asked(tmp_path) == ["requeue 7"]


def test_three_in_a_row_are_too_many_whether_they_have_a_name_or_not(shell: Shell, tmp_path: Path) -> None:
    answers = ["echo node2; return 1", "return 1", "echo node2; return 1"]
    codes = [shell(UP, ANSWER=answer) for answer in answers]
    assert [done.returncode for done in codes] == [0, 0, 1]
    assert "the third time in a row" in codes[-1].stdout
    assert shell(UP, ANSWER="return 1").returncode == 0, "somebody has looked, and sent it back"


def test_a_success_begins_the_count_anew(shell: Shell, tmp_path: Path) -> None:
    for answer in ("return 1", "return 1", "return 0", "return 1"):
        assert shell(UP, ANSWER=answer).returncode == 0
