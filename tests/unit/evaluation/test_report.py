"""A report is written whole, read back the same, and says when two are not comparable."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrdist.errors import DataError
from mrdist.evaluation.report import Figures, Report, compare, confusion_picture, read, table, write
from mrdist.evaluation.retrieval import Recall
from mrdist.evaluation.zeroshot import zero_shot

NAMES = ("cone", "cube", "cylinder", "sphere")


def report(name: str = "first", seed: int = 0, **contract: object) -> Report:
    random = np.random.default_rng(seed)
    held = zero_shot(random.normal(size=(30, 4)).astype(np.float32), random.integers(0, 4, 30), np.eye(4, dtype=np.float32), NAMES)
    recall = Recall(0.1 + seed / 10, 0.5, 0.75, 6.5, 0.02, 30, 50)
    return Report(
        name,
        {"axis": "z up", "teacher": "abc", **contract},
        (Figures("test", {"shapes": 30}, held, {"text_to_points": recall}), Figures("unnamed", {"shapes": 5})),
    )


def test_a_report_read_back_is_the_one_that_was_written(tmp_path: Path) -> None:
    held = report()
    path = write(held, tmp_path / "run")
    back = read(path)
    assert read(tmp_path / "run").flat() == back.flat() == held.flat()
    first, second = held.splits[0].zero_shot, back.splits[0].zero_shot
    assert first is not None
    assert second is not None
    assert np.array_equal(first.confusion, second.confusion)
    assert replace(second, confusion=first.confusion) == first
    assert back.contract == held.contract
    assert [s.contract for s in back.splits] == [s.contract for s in held.splits]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["confusion-test.png", "report.json", "report.md"]
    assert (tmp_path / "run" / "confusion-test.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_shows_every_figure_with_its_contract() -> None:
    text = table(report())
    for part in ("# first", "top-1", "text → points", "median rank", "6.5", "chance", "axis", "z up", "teacher", "abc", "taken for"):
        assert part in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines[:3]}) == 1


def test_two_reports_stand_side_by_side_with_their_difference() -> None:
    text = compare([report(), report("second", 1)])
    assert "Measured under the same contract." in text
    line = next(line for line in text.splitlines() if "text_to_points/r1" in line)
    assert "20.0 (+10.0)" in line


def test_reports_under_different_contracts_say_so() -> None:
    text = compare([report(), report("second", teacher="other")])
    assert "Not measured under the same contract" in text
    assert any("abc" in line and "other" in line for line in text.splitlines())
    with pytest.raises(DataError, match="at least two"):
        compare([report()])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 9}', '{"format": 1, "name": "a", "contract": {}, "splits": [{}]}'])
def test_what_is_no_report_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(DataError, match=r"report\.json"):
        read(tmp_path)


def test_figures_have_plain_numbers_for_a_board() -> None:
    flat = report().flat()
    assert {"test/top1", "test/top5", "test/text_to_points/r1"} <= set(flat)
    assert all(isinstance(value, float) for value in flat.values())
    json.dumps(flat)


def test_a_picture_of_many_classes_shows_those_confused_most() -> None:
    random = np.random.default_rng(0)
    names = [f"class {i}" for i in range(60)]
    held = zero_shot(random.normal(size=(600, 60)).astype(np.float32), random.integers(0, 60, 600), np.eye(60, dtype=np.float32), names)
    assert confusion_picture(held).startswith(b"\x89PNG")
