"""A run folder in which somebody trains is not submitted, whoever that is."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from mrdist.errors import RecipeError
from mrdist.recipe import load, to_yaml
from mrdist_cluster import slurm
from mrdist_cluster.cli.submit import _refuse_twice
from mrdist_cluster.runs import Submitted, note
from mrdist_cluster.slurm import Queued

SMOKE = load("smoke")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "mrdist-7"
    (folder / "ranks").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(to_yaml(SMOKE))
    return folder


def stamp(run: Path, *, ago: float) -> None:
    when = (datetime.now().astimezone() - timedelta(seconds=ago)).isoformat(timespec="seconds")
    (run / "ranks" / "0000.stamp").write_text(json.dumps({"rank": 0, "step": 5, "place": "step", "for": 0.1, "time": when, "ids": []}))


def test_a_run_that_any_command_trains_now_is_refused(run: Path) -> None:
    stamp(run, ago=1)
    with pytest.raises(RecipeError, match="the run is running, wanted a run that no job works on"):
        _refuse_twice(run, [SMOKE])
    stamp(run, ago=300)
    _refuse_twice(run, [SMOKE])


def test_a_run_that_is_on_this_machine_already_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(run, Submitted("12", local=True))
    _refuse_twice(run, [SMOKE])
    monkeypatch.setattr("mrdist_cluster.standing.local_alive", lambda job: True)
    with pytest.raises(RecipeError, match="a run that no job works on"):
        _refuse_twice(run, [SMOKE])


def test_a_run_that_a_job_has_or_waits_with_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "queue", lambda: {"7": Queued("mrdist", "pending", "Resources")})
    with pytest.raises(RecipeError, match="job 7 is pending"):
        _refuse_twice(run, [SMOKE])
