"""What a recipe names and this machine has not is found before anything is spent, and only by those who are about to spend."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mrdist.cli.lacking import lacking, refuse
from mrdist.cli.main import main
from mrdist.recipe import load


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_recipe_with_everything_in_place_lacks_nothing_and_looking_makes_nothing(here: Path) -> None:
    assert not list(lacking(load("smoke", ["runs=a/b/c", f"store={here}/not/yet"])))
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=folder"], "data.path: got nothing"),
        (["data=folder", "data.path=nowhere"], "data.path=nowhere: got no such file or folder"),
        (["data=furniture", "data.path=nowhere"], "furniture: got no models in nowhere"),
        (["data=converted", "teacher=precomputed"], "data.path: got nothing"),
        (["data=converted", "teacher=precomputed", "data.path=nowhere"], "nowhere: got other things, or nothing"),
        (["runs=file/x/y"], "runs=file/x/y: got"),
        (["store=file"], "store=file: got"),
        (["evaluate.templates=nowhere.json:forty"], "templates 'nowhere.json:forty'"),
        (["student.weights=nowhere.pt"], "student.weights=nowhere.pt: got no such file"),
        (["teacher=openclip-vit-b-32", "teacher.weights=nowhere.pt"], "teacher.weights=nowhere.pt: got no such file"),
        (["teacher=openclip-vit-b-32", "teacher.pretrained=laion2b_s34b"], "teacher.pretrained of ViT-B-32: got 'laion2b_s34b'"),
        (["teacher=openclip-vit-b-32", "teacher.model=ViT-B/32"], "teacher.model: got 'ViT-B/32'"),
    ],
)
def test_what_is_not_there_is_named(here: Path, words: list[str], said: str) -> None:
    (here / "file").write_text("")
    (found,) = lacking(load("smoke", words))
    assert said in str(found)


def test_a_folder_where_one_may_not_write_is_named_with_the_one_that_refuses(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "theirs").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: "theirs" not in str(path))  # whoever runs tests may be allowed everything
    (found,) = lacking(load("smoke", ["runs=theirs/mine/runs"]))
    assert str(found).startswith(f"runs=theirs/mine/runs: got {here / 'theirs'}, where you may not write")


def test_a_run_that_goes_on_needs_its_own_folder_and_no_other(here: Path) -> None:
    (here / "file").write_text("")
    (here / "run").mkdir()
    assert not list(lacking(load("smoke", ["runs=file/runs"]), here / "run"))


def test_a_prepared_run_that_goes_on_is_not_asked_for_a_teacher_that_it_may_not_need(here: Path) -> None:
    given = load("smoke", ["teacher=openclip-vit-b-32", "teacher.weights=gone.safetensors"])
    assert list(lacking(given))
    assert not list(lacking(given, here))


def test_a_file_of_templates_is_read(here: Path) -> None:
    (here / "mine.txt").write_text("a {}\n")
    refuse(load("smoke", ["evaluate.templates=mine.txt"]))
    (here / "mine.txt").write_text("nothing to fill\n")
    (found,) = lacking(load("smoke", ["evaluate.templates=mine.txt"]))
    assert "no list of sentences" in found.got


def test_training_without_data_is_refused_and_planning_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mrd/base", "--dry-run"]) == 1
    assert "error: data.path: got nothing" in capsys.readouterr().err
    assert main(["plan", "mrd/base", "site=example", "nodes=1", "--no-measure"]) == 0


def test_splits_that_the_catalogue_has_not_are_named_before_anything_is_drawn(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meshes = here / "meshes"
    meshes.mkdir()
    for name in "abc":
        (meshes / f"{name}.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    words = ["train", "smoke", "data=folder", "data.path=meshes", "data.val=0", "data.test=0", "evaluate.splits=[val]"]
    assert main(words) == 1
    assert f"split 'val' of {meshes}: got no shape, wanted one of train. Try: evaluate.splits=" in capsys.readouterr().err
    assert not list(here.glob("store/renders/*"))
    assert not (here / "runs").exists()


def test_all_that_is_lacking_is_found_at_once() -> None:
    words = ["data.path=nowhere", "teacher.weights=nowhere.pt", "student.weights=nowhere.pt", "runs=/dev/null/x"]
    given = load("mrd/base", words)
    assert len(list(lacking(given))) == 4
    assert len(list(lacking(replace(given, store="/dev/null")))) == 5
