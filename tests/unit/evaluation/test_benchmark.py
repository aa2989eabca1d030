"""Figures on a converted test set: what was stored about classes, or what the teacher reads; never rows of another space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrdist.data.converted import Converted
from mrdist.data.converting import convert
from mrdist.data.sources.projects import source
from mrdist.errors import TeacherError
from mrdist.evaluation.benchmark import evaluate_converted
from mrdist.shapes import Points
from mrdist.teachers.base import Teacher
from mrdist.teachers.precomputed import Precomputed
from tests.foreign import OPENSHAPE, write_openshape, write_test_sets

BIGG = "ViT-bigG-14:laion2b_s39b_b160k"


class Random:
    """Maps clouds to embeddings by a fixed random matrix."""

    def __init__(self, width: int) -> None:
        self.matrix = np.random.default_rng(0).standard_normal((9, width))

    def encode(self, points: Sequence[Points]) -> Tensor:
        moments = np.stack([(cloud.xyz.T @ cloud.xyz).reshape(-1) for cloud in points])
        rows = moments @ self.matrix
        return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)).float()


class Reader:
    """Reads words of the test set's three classes."""

    width, supplies, fingerprint = 6, frozenset({"text"}), "reader"

    def texts(self, captions: Sequence[str]) -> NDArray[np.float32]:
        return np.eye(6, dtype=np.float32)[[len(caption) % 6 for caption in captions]]

    def images(self, encoded: Sequence[bytes]) -> NDArray[np.float32]:
        raise AssertionError


def unopened() -> Teacher:
    raise AssertionError("the teacher was opened")


@pytest.fixture(scope="module")
def modelnet(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    place = tmp_path_factory.mktemp("sets")
    write_test_sets(place / "meta_data", tables=True)
    return convert(source("openshape", place, {"set": "modelnet40", "points": "50"}), place / "out")


def top1(encoder: Random, held: Converted, table: NDArray[np.float64]) -> float:
    shapes = [held.store[row] for row in held.store.rows().tolist()]
    scores = encoder.encode([shape.points for shape in shapes]).double().numpy() @ table.T
    return float(np.mean([held.classes[k] == shape.category for k, shape in zip(scores.argmax(1), shapes, strict=True)]))


def test_stored_rows_serve_the_teacher_that_said_them(modelnet: Converted) -> None:
    encoder = Random(OPENSHAPE)
    reads, (figures,) = evaluate_converted(encoder, modelnet, ["test"], space=BIGG, teacher=unopened)
    assert reads.fingerprint == BIGG
    assert figures.zero_shot is not None
    assert figures.zero_shot.classes == ("airplane", "night_stand", "vase")
    assert figures.zero_shot.top1 == pytest.approx(top1(encoder, modelnet, modelnet.rows.astype(np.float64)))
    assert figures.contract["classes said by"] == f"{BIGG}, cat_name_pt_feat.npy"
    assert figures.contract["up in the files"] == "y"
    assert "published: 2,468 shapes of 40 classes" in figures.contract["from"]


@pytest.mark.parametrize("space", ["", "EVA02-E-14-plus:laion2b_s9b_b144k"])
def test_another_teacher_reads_the_names_itself(modelnet: Converted, space: str) -> None:
    encoder = Random(6)
    reads, (figures,) = evaluate_converted(encoder, modelnet, ["test"], space=space, teacher=Reader, sentences="name")
    assert reads.fingerprint == "reader"
    assert figures.zero_shot is not None
    names = ["airplane", "night stand", "vase"]
    assert figures.zero_shot.top1 == pytest.approx(top1(encoder, modelnet, np.eye(6)[[len(name) % 6 for name in names]]))
    assert "classes said by" not in figures.contract
    assert figures.retrieval == {}


def test_rows_of_views_and_captions_are_compared_in_their_own_space_only(tmp_path: Path) -> None:
    write_openshape(tmp_path / "os", 60)
    held = convert(source("openshape", tmp_path / "os", {"points": "50", "val": "0.5", "test": "0"}), tmp_path / "out")
    _, (mine,) = evaluate_converted(Random(OPENSHAPE), held, ["val"], space=BIGG, teacher=lambda: Precomputed(BIGG, OPENSHAPE, {}))
    assert mine.retrieval.keys() == {"points_to_text", "text_to_points", "points_to_image", "image_to_points"}
    assert mine.zero_shot is None
    _, (other,) = evaluate_converted(Random(6), held, ["val"], space="another", teacher=Reader)
    assert other.retrieval == {}


def test_a_teacher_that_is_not_at_hand_says_what_it_was_asked_and_how_to_ask_it() -> None:
    teacher = Precomputed(BIGG, 3, {"night stand": np.array([0, 1, 0], np.float32)})
    np.testing.assert_array_equal(teacher.texts(["night stand"] * 2), [[0, 1, 0]] * 2)
    assert teacher.texts([]).shape == teacher.images([]).shape == (0, 3)
    with pytest.raises(TeacherError, match=r"got 'a vase', .* teacher\.model=ViT-bigG-14 teacher\.pretrained=laion2b_s39b_b160k"):
        teacher.texts(["a vase"])
    with pytest.raises(TeacherError, match="a picture"):
        teacher.images([b"jpeg"])
    assert teacher.model.model == "ViT-bigG-14"
