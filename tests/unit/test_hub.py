"""Exported folders are models as the hub has them, and are found where it keeps what was downloaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mrdist.encoder import CONTRACT, from_pretrained
from mrdist.errors import CheckpointError
from mrdist.hub import Result, card
from mrdist.teachers.clip import ClipConfig
from tests.unit.students.originals import numbers, uni3d_shapes
from tests.unit.test_encoder import cloud, encoder

RESULTS = [
    Result("Objaverse-LVIS", "test", "top-1", 0.4712),
    Result("Objaverse-LVIS", "test", "top-5", 0.7),
    Result("our: own", "val", "top-1", 1),
]


def downloaded(home: Path, name: str, *, revision: str = "0f1e2d") -> Path:
    """A snapshot as the hub's library lays it out: files are links to blobs."""
    kept = home / f"models--{name.replace('/', '--')}"
    made = encoder().save(home / "made")
    (kept / "blobs").mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(revision)
    snapshot = kept / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for number, path in enumerate(made.iterdir()):
        path.rename(kept / "blobs" / str(number))
        (snapshot / path.name).symlink_to(os.path.relpath(kept / "blobs" / str(number), snapshot))
    made.rmdir()
    return snapshot


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def test_a_downloaded_model_is_found_by_name_and_revision(home: Path) -> None:
    downloaded(home, "lab/chairs-tiny")
    wanted = encoder().encode(cloud())
    for name in ("lab/chairs-tiny", "lab/chairs-tiny@main", "lab/chairs-tiny@0f1e2d"):
        assert from_pretrained(name).encode(cloud()).equal(wanted)


def test_without_the_library_its_own_place_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    downloaded(tmp_path / ".cache" / "huggingface" / "hub", "lab/chairs")
    assert from_pretrained("lab/chairs").contract.width == 10


def test_a_model_that_is_not_there_says_how_to_fetch_it(home: Path) -> None:
    downloaded(home, "lab/chairs")
    for name, said in (
        ("lab/tables", r"encoder lab/tables: got .*no copy of it in .*hub, wanted .*Try: hf download lab/tables; or"),
        ("lab/chairs@v2", "Try: hf download lab/chairs --revision v2;"),
        ("lab/chairs/model.pt", "Try: hf download lab/chairs model.pt;"),
        ("lab", "no such folder"),
        ("../..", "a folder without config.json"),
        ("lab/../../secrets", "no such folder"),
        ("a/b/c@../../d", "no such folder"),
    ):
        with pytest.raises(CheckpointError, match=said):
            from_pretrained(name)


def test_a_folder_beside_us_goes_before_a_download(home: Path) -> None:
    downloaded(home, "lab/chairs")
    encoder(trained={"here": "yes"}).save("lab/chairs")
    assert from_pretrained("lab/chairs").contract.trained == {"here": "yes"}


def test_a_released_file_of_a_downloaded_model_is_found_by_its_path(home: Path) -> None:
    folder = home / "models--BAAI--Uni3D" / "snapshots" / "abc" / "modelzoo" / "uni3d-ti"
    folder.mkdir(parents=True)
    (home / "models--BAAI--Uni3D" / "refs").mkdir()
    (home / "models--BAAI--Uni3D" / "refs" / "main").write_text("abc")
    torch.save({"module": numbers(uni3d_shapes("tiny", 192))}, folder / "model.pt")
    assert from_pretrained("BAAI/Uni3D/modelzoo/uni3d-ti/model.pt").contract.teacher == ClipConfig(
        model="EVA02-E-14-plus", pretrained="laion2b_s9b_b144k"
    )


def test_the_card_is_read_by_the_hubs_own_library(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    folder = encoder(trained={"recipe": 'my: "recipe"'}).save(tmp_path / "a", licence="apache-2.0", results=RESULTS)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    held: Any = ModelCard.load(folder / "README.md").data
    assert (held.license, held.library_name, held.metrics) == ("apache-2.0", "mrdist", ["accuracy"])
    assert "point-cloud" in held.tags
    assert held.model_name == 'my: "recipe"'
    found = [(one.dataset_name, one.dataset_split, one.metric_name, one.metric_value) for one in held.eval_results]
    assert found == [(one.data, one.split, one.name, pytest.approx(one.value)) for one in RESULTS]
    assert {one.dataset_type for one in held.eval_results} == {"objaverse-lvis", "our-own"}
    plain: Any = ModelCard(card(encoder().contract)).data
    assert (plain.license, plain.eval_results) == ("unknown", None)


def test_another_projects_model_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / CONTRACT).write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="other things in it"):
        encoder().save(tmp_path)
