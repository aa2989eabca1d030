"""Runs of an experiment on a real Ray cluster: a task each."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrdist.cli.launching import LOG
from mrdist.errors import RecipeError
from mrdist.recipe import load, to_yaml
from mrdist_cluster.launching import ray

WORDS = (
    "steps=3", "batch=8", "points=64", "sample=32", "workers=1", "views.pixels=16", "views.ring=front4", "optim.warmup=1", "device=cpu",
    "data={preset: synthetic, train: 1, val: 0, test: 1, unseen: 1}",
    "student={preset: micro, dim: 24, depth: 1, groups: 8, group_size: 8}",
    "teacher={preset: fitted, pixels: 32, steps: 2, batch: 8, text_width: 32, channels: 8, width: 16}", "evaluate.splits=[test]",
)  # fmt: skip


def begun(folder: Path, recipe: str) -> Path:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(recipe)
    return folder


def test_every_run_is_trained_and_one_that_fails_costs_no_other(cluster: str, tmp_path: Path) -> None:
    recipe = to_yaml(load("smoke", [*WORDS, f"store={tmp_path / 'store'}"]))
    runs = [begun(tmp_path / "wrong", "nonsense: true"), begun(tmp_path / "right", recipe)]
    ticks: list[bool] = []
    ray(runs, {"jobs": "1"}, lambda: ticks.append((runs[1] / "metrics.jsonl").exists()))
    assert not (runs[0] / "done").exists()
    assert "no kind" in (runs[0] / LOG).read_text()
    assert (runs[1] / "done").exists(), (runs[1] / LOG).read_text()
    assert ticks[0] is False
    assert ticks[-1] is True


def test_a_word_for_another_launcher_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"launcher\.site"):
        ray([], {"site": "lab"}, lambda: None)
