"""Runs by name, and how they stand, from their folders alone."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from mrdist.cli.main import DONE, Flags
from mrdist.errors import RecipeError
from mrdist.recipe import load, to_yaml
from mrdist_cluster import slurm
from mrdist_cluster.cli import logs as command
from mrdist_cluster.cli.logs import fresh, logs, spoken
from mrdist_cluster.runs import Submitted, find, listed, note
from mrdist_cluster.slurm import Queued
from mrdist_cluster.standing import recent, stamps, standing

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a run folder that has taken some steps."""

    def made(name: str, steps: int = 0) -> Path:
        folder = tmp_path / name
        (folder / "ranks").mkdir(parents=True)
        (folder / "recipe.yaml").write_text(to_yaml(load("smoke", ["steps=100", "batch=64"])))
        (folder / "metrics.jsonl").write_text(
            "".join(
                json.dumps({"step": step, "loss": 10.0 - step, "seconds": 9.0 if step == 1 else 0.5}) + "\n" for step in range(1, steps + 1)
            )
        )
        if steps:
            (folder / "latest").symlink_to(f"steps/{steps:08d}")
        return folder

    return made


def stamped(folder: Path, place: str, *, ago: float = 0) -> None:
    when = (datetime.now().astimezone() - timedelta(seconds=ago)).isoformat(timespec="seconds")
    told = {"rank": 0, "step": 5, "place": place, "for": 0.1, "time": when, "ids": ["a"]}
    (folder / "ranks" / "0000.stamp").write_text(json.dumps(told))


def test_a_run_is_named_by_its_folder_or_by_a_part_that_no_other_has(make: Make, tmp_path: Path) -> None:
    one, again, cell = make("2026-03-02-drill-7f3a"), make("2026-03-02-drill-7f3a-2"), make("scaling/vit-seed0")
    assert listed(tmp_path) == [one, again, cell]
    assert find("7f3a", tmp_path) == one
    assert find("7f3a-2", tmp_path) == again
    assert find("scaling/vit", tmp_path) == cell
    assert find(str(again), Path("nowhere")) == again
    with pytest.raises(RecipeError, match="got 2 runs"):
        find("drill", tmp_path)
    with pytest.raises(RecipeError, match="no run of that name"):
        find("9999", tmp_path)


def test_pace_and_time_left_are_of_late(make: Make) -> None:
    run = standing(make("run", 8), {})
    assert (run.step, run.steps, run.loss, run.saved) == (8, 100, 2.0, 8)
    assert (run.pace, run.rate, run.left) == (0.5, 128.0, 46.0)


def test_a_folder_says_what_became_of_its_run(make: Make) -> None:
    folder = make("run")
    (folder / "ranks").rmdir()
    assert standing(folder, {}).state == "new"
    (folder / "ranks").mkdir()
    stamped(folder, "step > talk")
    assert standing(folder, {}).state == "running"
    stamped(folder, "step > talk", ago=300)
    assert standing(folder, {}).state == "stopped"
    stamped(folder, "over")
    assert standing(folder, {}).state == "stopped"
    (folder / "why.txt").write_text("rank 0 of 1 ...")
    assert standing(folder, {}).state == "failed"
    (folder / "done").touch()
    assert standing(folder, {}).state == "done"


def test_stamps_from_before_the_run_went_on_count_no_more(make: Make) -> None:
    folder = make("run")
    stamped(folder, "step > talk", ago=300)
    assert [one.place for one in stamps(folder)] == ["step > talk"]
    (folder / "command.txt").write_text("it went on, on fewer ranks\n")
    os.utime(folder / "ranks" / "0000.stamp", (0, 0))
    assert stamps(folder) == []


def test_what_slurm_says_of_the_last_submission_comes_first(make: Make) -> None:
    folder = make("2026-03-02-drill-7f3a", 8)
    stamped(folder, "over")
    note(folder, Submitted("41"))
    note(folder, Submitted("42_1", log="x.out"))
    queue = {"41": Queued("drill", "running", "node1"), "42_1": Queued("drill", "pending", "Resources")}
    run = standing(folder, queue)
    assert (run.state, run.reason, run.under_way) == ("pending", "Resources", True)
    assert run.job == Submitted("42_1", log="x.out")
    assert standing(folder, {}).state == "stopped"


def test_the_folder_of_a_job_script_is_known_by_its_number_and_name(make: Make) -> None:
    folder = make("mrdist-42")
    assert standing(folder, {"42": Queued("mrdist", "running", "node1")}).state == "running"
    assert standing(folder, {"42": Queued("another", "running", "node1")}).job is None


def test_a_local_job_whose_process_number_belongs_to_somebody_else_is_over(make: Make) -> None:
    folder = make("run")
    note(folder, Submitted(str(os.getpid()), local=True, host=os.uname().nodename))
    assert standing(folder, {}).state == "new"


def test_only_the_end_of_long_metrics_is_read_and_broken_lines_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1000)) + '{"step": 1000, "lo')
    found = [line["step"] for line in recent(file, most=300)]
    assert found[-1] == 999
    assert 3 < len(found) < 20


def test_a_line_longer_than_what_is_read_at_once_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": step, "shapes": ["shape"] * 100}) + "\n" for step in (7, 8)) + '{"step": 9, "sha')
    assert [line["step"] for line in recent(file, most=30)][-1] == 8
    file.write_text('{"step": 9, "sha')
    assert list(recent(file, most=3)) == []


def test_logs_are_in_the_order_of_ranks_whoever_wrote_them(make: Make) -> None:
    ranks = make("run") / "ranks"
    for name in ("0010.out", "0002.log", "0002.out", "0002.stamp", "node2/7.0_x/attempt_0/1/stdout.log"):
        (ranks / name).parent.mkdir(parents=True, exist_ok=True)
        (ranks / name).write_text("said\n")
    assert [(label, file.name) for label, file in spoken(ranks.parent)] == [
        ("2", "0002.out"), ("2", "0002.log"), ("10", "0010.out"), ("node2/1", "stdout.log"),
    ]  # fmt: skip


def test_a_run_is_followed_with_few_questions_to_slurm_and_through_its_silence(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, answers = make("mrdist-42"), list[bool]()
    (folder / "ranks" / "0000.out").write_text("said\n")

    def queue() -> dict[str, Queued]:
        answers.append(len(answers) != 1)
        if not answers[-1]:
            raise slurm.SlurmError(what="squeue", got="nothing", wanted="an answer", try_="sinfo")
        return {"42": Queued("mrdist", "running", "node1")} if len(answers) < 3 else {}

    monkeypatch.setattr(slurm, "queue", queue)
    monkeypatch.setattr(command, "EVERY", 0.01)
    monkeypatch.setattr(command, "ASK", 0.2)
    assert logs([str(folder), "follow=true"], Flags()) == DONE
    assert answers == [True, False, True]
    assert capsys.readouterr().out == "0: said\n"


def test_a_log_that_grows_is_read_once_and_by_whole_lines(tmp_path: Path) -> None:
    file, read = tmp_path / "0000.out", dict[Path, int]()
    file.write_text("one\ntw")
    assert list(fresh(file, read)) == ["one"]
    assert list(fresh(file, read)) == []
    with file.open("a") as more:
        more.write("o\nthree\n")
    assert list(fresh(file, read)) == ["two", "three"]


def test_what_torchrun_wrote_is_found_by_the_number_of_the_rank_start_after_start(make: Make) -> None:
    ranks = make("run") / "ranks"
    for start in (1, 2, 10):
        for number, rank in ((0, 4), (1, 5)):
            place = ranks / f"node2/88121.{start}_x/attempt_0/{number}"
            place.mkdir(parents=True)
            (place / "stdout.log").write_text(f"rank {rank} of 8 on node2\nsaid in start {start}\n")
            (place / "stderr.log").write_text("warned\n")
    (ranks / "0005.log").write_text("of the library\n")
    found = [str(file.relative_to(ranks)) for label, file in spoken(ranks.parent) if label == "5"]
    assert [file for file in found if "stdout" in file] == [f"node2/88121.{start}_x/attempt_0/1/stdout.log" for start in (1, 2, 10)]
    assert found[-1] == "0005.log"
    assert len(found) == 7
    assert {label for label, _ in spoken(ranks.parent)} == {"4", "5"}


def test_the_script_that_is_a_rank_says_first_which_one(tmp_path: Path) -> None:
    place = tmp_path / "ranks/node1/x/attempt_0/3"
    place.mkdir(parents=True)
    (tmp_path / "mrdist").write_text("#!/bin/bash\necho trained\n")
    (tmp_path / "mrdist").chmod(0o755)
    script = Path(__file__).parents[3] / "slurm" / "rank.sh"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RANK": "11", "WORLD_SIZE": "16", "RUN": str(tmp_path)}
    with (place / "stdout.log").open("w") as log:
        subprocess.run(["bash", str(script)], env=environment, stdout=log, check=True)
    assert [label for label, _ in spoken(tmp_path)] == ["11"]
