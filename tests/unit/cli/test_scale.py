"""What `mrdist scale` says while runs go on: from their folders alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mrdist.cli import scale
from mrdist.cli.scale import Board, taken
from mrdist.scaling.grid import Experiment, read

TEXT = """
base: smoke
name: mine
steps: 100
grid: {sizes: {small: {student: {dim: 48}}, large: {student: {dim: 96}}}}
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    (tmp_path / "mine.yaml").write_text(TEXT)
    found = read(tmp_path / "mine.yaml", [f"runs={tmp_path}"])
    for cell in found.cells:
        cell.begin()
    return found


def stepped(folder: Path, steps: int, seconds: float) -> None:
    lines = [json.dumps({"step": k, "seconds": seconds, "shapes": ["x" * 40] * 50}) for k in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 1']))


def test_steps_and_pace_are_read_from_the_end_of_a_run(experiment: Experiment) -> None:
    cell = experiment.cells[0]
    assert taken(cell) == (0, 0.0)
    stepped(cell.folder, 60, 0.5)
    assert taken(cell, tail=10_000) == (60, 0.5)
    (cell.folder / "done").touch()
    assert taken(cell)[0] == 100


def test_time_left_counts_steps_of_a_larger_student_for_more(
    experiment: Experiment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    board = Board(experiment, interval=0.0)
    board.began -= 50.0
    small, large = experiment.cells
    stepped(small.folder, 50, 1.0)
    board()
    line = capsys.readouterr().err
    assert "0/2 runs" in line
    assert "50/200 steps" in line
    minutes, seconds = line.split("left ")[1].split(":")
    # 50 s for what is left of the small one, and more than 100 s for the large one, of which nothing is known but its flops.
    assert 60 * int(minutes) + int(seconds) > 160
    stepped(large.folder, 10, 3.0)
    board()
    minutes, seconds = capsys.readouterr().err.split("left ")[1].split(":")
    assert 60 * int(minutes) + int(seconds) == 50 / 80 * (50 + 270), "by its own pace, once it has one"
