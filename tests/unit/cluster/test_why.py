"""`mrdist why` about runs that are under way and do not move, from real folders and a real process that has the job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from mrdist.cli.main import Flags
from mrdist.ranks import Ranks
from mrdist.recipe import load, to_yaml
from mrdist.training import why as paragraphs
from mrdist_cluster.cli.why import why

Why = Callable[[], str]


def ago(seconds: float) -> datetime:
    return datetime.now().astimezone() - timedelta(seconds=seconds)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run that a local job has had for 1,000 s, and whose ranks have said nothing."""
    folder = tmp_path / "2026-03-02-drill-7f3a"
    (folder / "ranks").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(to_yaml(load("smoke", ["steps=100", "watch.silence=700"])))
    job = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", "submitit"])
    told = {"job": str(job.pid), "log": str(tmp_path / "job.out"), "local": True, "host": os.uname().nodename}
    (folder / "jobs.jsonl").write_text(json.dumps({**told, "time": ago(1000).isoformat(timespec="seconds")}) + "\n")
    yield folder
    job.kill()
    job.wait()


@pytest.fixture
def asked(run: Path, capsys: pytest.CaptureFixture[str]) -> Why:
    def said() -> str:
        assert why([str(run)], Flags()) == 0
        return capsys.readouterr().out

    return said


def begun(run: Path, seconds: float) -> None:
    """Its ranks met so many seconds ago."""
    (run / "command.txt").write_text(f"{ago(seconds):%Y-%m-%d %H:%M:%S %z}  node1  mrdist train\n")


def stepped(run: Path, seconds: float) -> None:
    (run / "metrics.jsonl").write_text(json.dumps({"step": 12, "loss": 3.0, "seconds": 2.0, "time": ago(seconds).isoformat()}) + "\n")


def stamped(run: Path, *places: str, seconds: float = 1) -> None:
    for rank, place in enumerate(places):
        told = {"rank": rank, "step": 12, "place": place, "for": 1.0, "time": ago(seconds).isoformat(timespec="seconds"), "ids": ["chair"]}
        (run / "ranks" / f"{rank:04d}.stamp").write_text(json.dumps(told))


def test_ranks_that_have_not_met_are_told_of_interfaces_and_quoted(run: Path, asked: Why) -> None:
    (run / "ranks" / "0000.out").write_text("rank 0 on node1\nNCCL INFO Bootstrap : Using docker0:172.17.0.1\n")
    said = asked()
    assert "no rank has come so far as to say where it is, 100" in said
    assert "NCCL INFO Bootstrap : Using docker0" in said
    assert "try: if these words do not change" in said
    assert "GLOO_SOCKET_IFNAME=NAME NCCL_SOCKET_IFNAME=NAME" in said


def test_what_an_earlier_job_left_behind_is_no_sign_of_this_one(run: Path, asked: Why) -> None:
    stamped(run, "over", "step > talk", seconds=5000)
    begun(run, 9000)
    stepped(run, 5000)
    ranks = Ranks(1, 2)
    text = paragraphs.failure(ValueError("long ago"), ranks, 3, ()).replace(f"{datetime.now():%Y-}", "2020-")
    (run / "why.txt").write_text(text)
    (run / "ranks" / "0000.out").write_text("of an earlier life\n")
    os.utime(run / "ranks" / "0000.out", (0, 0))
    said = asked()
    assert "no rank has come so far" in said
    assert "long ago" not in said
    assert "earlier life" not in said


def test_a_rank_that_all_others_wait_for_is_named_before_the_watchdog_speaks(run: Path, asked: Why) -> None:
    begun(run, 990)
    stepped(run, 541)
    stamped(run, "step > talk", "step > talk", "wait")
    said = asked()
    assert "s, where 2 s are usual: rank 2 in wait, 2 others in step > talk" in said
    assert "no step for 540 s" in said or "no step for 539 s" in said
    assert "try: the others wait for rank 2" in said
    assert "logs 2026-03-02-drill-7f3a rank=2" in said
    assert "after 700 s" in said


def test_ranks_that_all_talk_and_hear_nothing_are_told_of_interfaces(run: Path, asked: Why) -> None:
    begun(run, 400)
    stamped(run, "forward > talk", "forward > talk")
    said = asked()
    assert "no step for 39" in said
    assert "all 2 ranks in forward > talk" in said
    assert "GLOO_SOCKET_IFNAME" in said


def test_a_run_that_moves_goes_its_way_and_says_when_it_moved_last(run: Path, asked: Why) -> None:
    begun(run, 400)
    stepped(run, 4)
    stamped(run, "forward", "wait")
    said = asked()
    assert "a step 3 s ago; rank 0 in forward, 1 other in wait" in said or "a step 2 s ago" in said
    assert "try: nothing: it goes its way" in said


def test_machines_are_told_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(run, 990)
    stepped(run, 541)
    stamped(run, "talk", "wait")
    why([str(run)], Flags(json=True))
    told = json.loads(capsys.readouterr().out)
    assert told["first"] is None
    assert (told["pulse"]["strange"], told["pulse"]["suspect"]["rank"]) == (True, 1)
