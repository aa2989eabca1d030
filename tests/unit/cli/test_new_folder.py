"""Every new run has a folder of its own, however many begin at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mrdist.cli.train import free_name, new_folder, told_folder
from mrdist.errors import RecipeError
from mrdist.ranks import Ranks
from mrdist.recipe import Recipe
from mrdist.testing import on_ranks
from mrdist.training.folder import enter

MAKE = """
import sys
from mrdist.cli.train import new_folder
from mrdist.recipe import Recipe
recipe = Recipe(name="same", runs=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(50):
    print(new_folder(recipe).name)
"""


def test_runs_that_begin_at_once_have_folders_of_their_own(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    command = [sys.executable, "-c", MAKE, str(runs)]
    makers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for maker in makers:
        assert maker.stdout is not None
        maker.stdout.readline()
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    names = [name for maker in makers for name in maker.communicate()[0].split()]
    assert len(set(names)) == len(names) == 100
    assert {folder.name for folder in runs.iterdir()} == set(names)


def test_a_new_folder_is_empty_and_can_be_entered(tmp_path: Path) -> None:
    recipe = Recipe(name="a/b", runs=str(tmp_path / "runs"))
    name = free_name(recipe)
    assert not (tmp_path / "runs").exists()
    folder = told_folder(recipe, Ranks.alone())
    assert folder == name
    assert list(folder.iterdir()) == []
    enter(folder, recipe, Ranks.alone())
    assert (folder / "recipe.yaml").is_file()
    assert new_folder(recipe).name == f"{name.name}-2"
    assert free_name(recipe).name == f"{name.name}-3"


def told(ranks: Ranks, runs: str) -> str:
    return str(told_folder(Recipe(name="same", runs=runs), ranks))


def test_the_first_rank_makes_one_folder_and_tells_the_others(tmp_path: Path) -> None:
    first, second = on_ranks(2, told, str(tmp_path))
    assert first == second
    assert [str(folder) for folder in tmp_path.iterdir()] == [first]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(RecipeError, match=r"runs=.*Try: runs=/another"):
        told_folder(Recipe(name="same", runs=str(tmp_path / "runs")), Ranks.alone())
