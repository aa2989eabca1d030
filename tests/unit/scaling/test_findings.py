"""What is found in finished runs, and how it is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from mrdist.scaling.compute import optimum
from mrdist.scaling.findings import as_json, found, table, write
from mrdist.scaling.grid import Grid
from mrdist.scaling.law import Law
from tests.unit.scaling.made import FLOOR, GRID, POWER, SIZES, run, runs


def test_the_law_of_each_objective_and_the_gain_at_each_size_are_found() -> None:
    held = found("made", runs(), GRID)
    for objective in ("relations", "alone"):
        law = held.laws[objective]
        assert isinstance(law, Law)
        assert law.supported
        assert law.power["N"].low <= POWER <= law.power["N"].high
    floor = held.laws["relations"]
    assert isinstance(floor, Law)
    assert floor.floor.low <= FLOOR <= floor.floor.high
    assert [gain.size for gain in held.gains] == list(SIZES)
    pairs = {(r.objective, r.size, r.seed): r for r in held.results}
    for gain in held.gains:
        assert gain.held_out == tuple(
            pairs["alone", gain.size, s].held_out - pairs["relations", gain.size, s].held_out for s in GRID.seeds
        )  # fmt: skip


def test_gains_leave_out_seeds_that_only_one_objective_has() -> None:
    held = found("made", [r for r in runs() if (r.objective, r.size, r.seed) != ("alone", "w32", 1)], GRID)
    assert [len(gain.held_out) for gain in held.gains] == [2, 1, 2, 2]


def test_fractions_of_the_data_bring_a_power_of_data() -> None:
    many = [run(size, "relations", 0, fraction=f, noise=0.003, data=0.5) for size in SIZES for f in (0.1, 0.3, 1.0)]
    law = found("made", many, replace(GRID, objectives=("relations",), fractions=(0.1, 0.3, 1.0))).laws["relations"]
    assert isinstance(law, Law)
    assert set(law.power) == {"N", "D"}
    two = [r for r in many if r.fraction > 0.2]
    alone = found("made", two, GRID).laws["relations"]
    assert alone == "4 runs for 5 numbers" or isinstance(alone, Law)


def test_the_best_size_grows_with_the_budget() -> None:
    best = optimum([r for r in runs(noise=0.0) if r.objective == "relations"])
    assert best is not None
    order = [list(SIZES).index(stretch.size) for stretch in best.stretches]
    assert order == sorted(order)
    ends = sorted({r.curve[-1][0] for r in runs()})
    assert best.best.end == pytest.approx(ends[-2]), "beyond it only the largest was trained: nothing to compare"


def test_one_size_or_curves_that_do_not_overlap_have_no_best() -> None:
    assert optimum([run("w16", "relations", 0)]) is None
    far = replace(run("w128", "relations", 0), curve=((1e15, 2.0), (2e15, 1.0)))
    assert optimum([run("w16", "relations", 0), far]) is None


def test_table_json_and_figure_are_written_whole(tmp_path: Path) -> None:
    held = found("made", runs(), GRID)
    files = write(held, GRID, tmp_path)
    assert [file.name for file in files] == ["scaling.md", "scaling.json", "scaling.png", "scaling.pdf"]
    tree = json.loads(files[1].read_text())
    assert tree == json.loads(json.dumps(as_json(held)))
    assert len(tree["runs"]) == 16
    assert tree["laws"]["relations"]["supported"]
    picture = imread(files[2])
    assert picture.shape[0] > 800
    blue = np.abs(picture[..., :3] - np.array([0.0, 0x72, 0xB2]) / 255 * np.array([0, 1, 1])).max(-1) < 0.02
    assert blue.sum() > 1000, "the first objective's points and lines are there"
    assert files[3].read_bytes().startswith(b"%PDF")
    assert not list(tmp_path.glob(".*"))


def test_the_table_says_plainly_what_the_data_do_not_support() -> None:
    flat = [replace(r, held_out=1.5 + 0.05 * (r.seed - 0.5)) for r in runs(("relations",))]
    grid = replace(GRID, objectives=("relations",))
    said = table(found("flat", flat, grid), grid)
    assert "The data do not support it: a constant does nearly as well" in said
    few = [r for r in runs(("relations",)) if r.size in ("w16", "w32")]
    assert "No law was fitted: 2 different N" in table(found("few", few, grid), grid)


def test_what_has_no_class_has_no_zero_shot_and_is_drawn_all_the_same(tmp_path: Path) -> None:
    bare = [replace(r, top1=None) for r in runs()]
    held = found("bare", bare, GRID)
    assert all(gain.top1 == () for gain in held.gains)
    assert write(held, GRID, tmp_path)
    one = [replace(r, top1=None) for r in runs(("relations",), seeds=1)]
    assert write(found("one", one, Grid(sizes=GRID.sizes)), Grid(sizes=GRID.sizes), tmp_path)
