"""A grid is every combination, each a recipe of its own; what does not mean anything is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mrdist.errors import RecipeError
from mrdist.presets import grid
from mrdist.recipe import load
from mrdist.scaling.grid import read

TEXT = """
base: smoke
name: mine
grid:
  sizes: {micro: micro, wide: {student: {dim: 192, heads: 6, hidden: 384}, batch: 64}}
  objectives: [mrd/kl, alignment]
  seeds: [3, 4]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return path


def test_every_combination_is_a_run_in_a_folder_of_its_own(file: Path) -> None:
    found = read(file, ["grid.fractions=[0.5,1.0]", "steps=7", "runs=there"])
    assert len(found.cells) == len({cell.folder for cell in found.cells}) == 2 * 2 * 2 * 2
    assert found.folder == Path("there/mine")
    cell: Any = next(c for c in found.cells if (c.size, c.objective, c.fraction, c.seed) == ("wide", "mrd/kl", 0.5, 4))
    assert cell.folder == Path("there/mine/wide-mrd.kl-f0.5-s4")
    recipe = cell.recipe
    assert (recipe.steps, recipe.batch, recipe.seed, recipe.fraction, recipe.student.dim) == (7, 64, 4, 0.5, 192)
    assert recipe.objective.divergence == "kl"
    alone: Any = next(c for c in found.cells if c.objective == "alignment").recipe.objective
    assert (alone.intra, alone.cross, alone.divergence) == ("none", "none", "jeffrey")
    assert recipe.student.parametrisation == "standard"


def test_a_learning_rate_is_carried_over_from_the_first_size(file: Path) -> None:
    students: list[Any] = [cell.recipe.student for cell in read(file, ["grid.transfer=mup"]).cells]
    assert {(s.parametrisation, s.base_dim, s.base_heads) for s in students} == {("mup", 96, 3)}


def test_a_file_with_a_grid_is_still_a_recipe_and_hands_its_grid_on(file: Path, tmp_path: Path) -> None:
    assert load(file).name == "mine"
    heir = tmp_path / "heir.yaml"
    heir.write_text(f"base: {file}\nname: heir\ngrid: {{seeds: [0]}}\n")
    assert grid(heir)["objectives"] == ["mrd/kl", "alignment"]
    assert len(read(heir).cells) == 4


def test_a_run_folder_is_begun_once_and_refuses_another_recipe(file: Path, tmp_path: Path) -> None:
    cell = read(file, [f"runs={tmp_path}"]).cells[0]
    cell.begin()
    assert load(cell.folder) == cell.recipe
    cell.begin()
    for words, said in ((["steps=9"], "steps"), (["optim.lr=1"], "optim.lr")):
        with pytest.raises(RecipeError, match=said):
            read(file, [f"runs={tmp_path}", *words]).cells[0].begin()
    again = read(file, [f"runs={tmp_path}", "workers=1"]).cells[0]
    again.begin()
    assert load(cell.folder).workers == 1, "what decides nothing may change"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("grid.sizs={}", "did you mean 'sizes'"),
        ("grid.transfer=all", "none or mup"),
        ("grid.seeds=[]", "grid.seeds"),
        ("grid.seeds=[1,1]", "each once"),
        ("grid.split=val", r"evaluate.splits=\[val\]"),
        ("grid.objectives=[mrd/kk]", "objective=mrd/kl"),
        ("grid.last=0", "at least 1"),
        ("grid={transfer: mup, sizes: {wide: {student: {hidden: 500}}}}", "hidden 500 of 192"),
        ("grid={transfer: mup, sizes: {wide: {student: {depth: 5}}}}", "depth 5 at wide"),
    ],
)
def test_what_a_grid_cannot_be_is_refused(file: Path, word: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read(file, [word])


def test_shipped_experiments_are_whole() -> None:
    backbone = read("scaling/backbone")
    assert len(backbone.cells) == 4 * 2 * 2
    dims: list[Any] = [cell.recipe.student for cell in backbone.cells]
    assert {s.dim // s.heads for s in dims} == {16}
    uni3d: list[Any] = [cell.recipe for cell in read("scaling/uni3d", ["grid.seeds=[0]", "grid.fractions=[1.0]"]).cells]
    assert {(r.student.dim, r.student.gated) for r in uni3d} == {(192, True), (384, True), (768, True), (1024, True), (1408, False)}
    assert {r.student.recompute for r in uni3d if r.student.dim == 1408} == {True}
