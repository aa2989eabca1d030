"""From OpenShape's files to a trained, measured and exported student, as a user types it; and released weights on its test sets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mrdist.cli.main import main
from mrdist.encoder import from_pretrained
from mrdist.errors import MrdistError
from mrdist.prepare import brings, open_prepared, prepare
from mrdist.recipe import load
from mrdist.teachers.clip import ClipConfig
from tests.e2e.test_commands import mrdist
from tests.foreign import OPENSHAPE, write_openshape, write_test_sets, write_uni3d
from tests.unit.students.originals import numbers, openshape_shapes

RECIPE = """
base: smoke
name: mini
steps: 4
batch: 16
sample: 128
data: {preset: converted, path: store/openshape-train_all}
teacher: precomputed
student: {preset: micro, dim: 48, depth: 1, heads: 3, groups: 8, group_size: 8}
optim: {warmup: 1}
evaluate: {splits: [test]}
watch: {log_every: 2, save_every: 2, evaluate_every: 2, pictures_every: 2}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which OpenShape's data were converted and trained on, with everything small."""
    place = tmp_path_factory.mktemp("lab")
    write_openshape(place / "openshape", 100)
    write_test_sets(place / "sets", tables=True)
    (place / "sets" / "modelnet40").rename(place / "openshape" / "meta_data" / "modelnet40")
    write_uni3d(place / "uni3d")
    (place / "mini.yaml").write_text(RECIPE)
    done = mrdist(place, "data", "convert", "openshape", "openshape", "points=200", "val=0.1", "test=0.1", "workers=2")
    assert "next: mrdist train RECIPE data=converted data.path=store/openshape-train_all teacher=precomputed" in done.stdout
    assert "convert" in done.stderr
    mrdist(place, "train", "mini.yaml")
    return place


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    return next((place / "runs").glob("*-mini-*"))


def test_a_run_on_a_converted_store_trains_measures_and_exports(place: Path, run: Path) -> None:
    figures = json.loads((run / "report.json").read_text())["splits"][0]
    assert figures["retrieval"].keys() == {"points_to_text", "text_to_points", "points_to_image", "image_to_points"}
    encoder = from_pretrained(run)
    assert encoder.contract.width == OPENSHAPE
    assert encoder.contract.teacher == ClipConfig(model="ViT-bigG-14", pretrained="laion2b_s39b_b160k")
    assert encoder.contract.teacher_fingerprint == ""
    assert not (place / "store" / "renders").exists()


def said(capsys: pytest.CaptureFixture[str], *words: str, expect: int = 0) -> str:
    """What a command prints, without waiting for another interpreter."""
    assert main(words) == expect
    printed = capsys.readouterr()
    return printed.err if expect else printed.out


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def test_a_run_is_measured_on_a_test_set_by_the_rows_that_came_with_it(here: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "data", "convert", "openshape", "openshape", "set=modelnet40", "points=200")
    table = said(capsys, "evaluate", str(run), "data=converted", "data.path=store/openshape-modelnet40")
    assert "ViT-bigG-14:laion2b_s39b_b160k, cat_name_pt_feat.npy" in table
    assert "ModelNet40 test (published: 2,468 shapes of 40 classes), OpenShape's clouds" in table
    assert "| test  | 9 " in table
    # Without meshes, or the model itself, nobody can say what this teacher would see in others.
    error = said(capsys, "evaluate", str(run), "data=synthetic", "teacher=openclip-vit-b-32", expect=1)
    assert "wanted ViT-bigG-14:laion2b_s39b_b160k, whose space this is" in error


def test_released_weights_are_measured_on_a_test_set(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": numbers(openshape_shapes(256, 6, 1024, 96))}, "openshape.pt")
    said(capsys, "data", "convert", "openshape", "openshape", "set=modelnet40", "points=200", "store/again")
    figures = json.loads(said(capsys, "evaluate", "openshape.pt", "data=converted", "data.path=store/again", "--json"))
    assert figures["test/chance"] == pytest.approx(1 / 3)
    (report,) = (here / "evaluations").glob("openshape.pt-*/report.json")
    assert "Uni3D" not in report.read_text()
    # Uni3D's files bring no rows of classes: the text tower reads their names.
    said(capsys, "data", "convert", "uni3d", "uni3d", "set=modelnet40", "points=200")
    error = said(
        capsys, "evaluate", "openshape.pt", "data=converted", "data.path=store/uni3d-modelnet40", "teacher.weights=nowhere.bin", expect=1
    )
    assert "nowhere.bin" in error
    assert "data=converted data.path=FOLDER" in said(capsys, "evaluate", "openshape.pt", expect=1)


def test_an_export_says_what_was_measured_and_under_which_licence(here: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "hf upload ORG/NAME out" in said(capsys, "export", str(run), "out", "licence=mit")
    assert {path.name for path in (here / "out").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert 'license: "mit"' in (here / "out" / "README.md").read_text()
    assert "no such option" in said(capsys, "export", str(run), "out", "lisence=mit", expect=1)


def test_a_smaller_fraction_is_part_of_a_larger_one(here: Path) -> None:
    recipe = load("mini.yaml")
    assert brings(recipe)
    held = [set(open_prepared(load("mini.yaml", [f"fraction={f}"])).store.indices("train").tolist()) for f in (0.2, 0.5, 1)]
    assert held[0] < held[1] < held[2]
    assert len(held[1]) == pytest.approx(0.5 * len(held[2]), abs=1)
    whole, part = prepare(recipe), prepare(load("mini.yaml", ["fraction=0.2"]))
    assert whole.skipped == []
    assert whole.teacher.width == OPENSHAPE
    np.testing.assert_array_equal(whole.store.indices("test"), part.store.indices("test"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("teacher=openclip-vit-b-32", "the one that embedded the store, ViT-bigG-14:laion2b_s39b_b160k. Try: teacher=precomputed"),
        ("redraw=2", "redraw=0"),
        ("data.path=nowhere", "mrdist data convert"),
        ("evaluate.splits=[unseen]", "no shape of split 'unseen'"),
        ("data=synthetic", "data=converted, which bring what it said"),
    ],
)
def test_what_cannot_be_is_said_before_a_step_is_taken(here: Path, word: str, message: str) -> None:
    with pytest.raises(MrdistError, match=re.escape(message)):
        prepare(load("mini.yaml", [word]))
