"""A split is measured the same on one rank and on three, and its contract says what was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrdist.errors import DataError, TeacherError
from mrdist.evaluation.report import Figures
from mrdist.evaluation.store import common_contract, evaluate_store
from mrdist.ranks import Ranks
from mrdist.shapes import Points, Triplet
from mrdist.testing import on_ranks

WORDS = ("cone", "cube", "night stand", "sphere")


class Letters:
    """A teacher: every class lies on its own axis, whatever the sentence."""

    fingerprint = "letters"
    width = 4

    def texts(self, captions: Sequence[str]) -> NDArray[np.float32]:
        rows = [[float(word in caption) for word in WORDS] for caption in captions]
        return np.array(rows, dtype=np.float32) + 0.01


class Means:
    """An encoder: the mean colour and height of a cloud."""

    def encode(self, points: Sequence[Points]) -> Tensor:
        held = [np.concatenate([cloud.rgb.mean(0), cloud.xyz[:, 2:].mean(0)]) for cloud in points]
        return torch.nn.functional.normalize(torch.from_numpy(np.stack(held)).float(), dim=-1)


class Shelf:
    """A store: eleven shapes of four categories and one without; captions of their names, two views."""

    def __getitem__(self, row: int) -> Triplet:
        random = np.random.default_rng(row)
        kind = row % 4
        means = np.full(4, 0.1)
        means[kind] = 1.0
        xyz = np.zeros((20 + row, 3), np.float32)
        xyz[:, 2] = means[3]
        rgb = np.tile(means[:3].astype(np.float32), (len(xyz), 1))
        image = means + 0.2 * random.normal(size=(2, 4))
        text = Letters().texts([f"a {WORDS[kind]}"] if row % 3 else [])
        category = "" if row == 7 else WORDS[kind].replace(" ", "_")
        return Triplet(f"shape-{row}", category, Points(xyz, rgb), image.astype(np.float16), text.reshape(-1, 4).astype(np.float16))

    def indices(self, split: str) -> NDArray[np.int64]:
        return np.arange(1, 12) if split == "test" else np.zeros(0, np.int64)


def measured(ranks: Ranks) -> Figures:
    return evaluate_store(Means(), Shelf(), "test", Letters(), batch=2, ranks=ranks)


def test_a_split_is_measured_with_its_contract_beside_it() -> None:
    told: list[str] = []
    held = evaluate_store(Means(), Shelf(), "test", Letters(), progress=lambda stage, done, total: told.append(f"{stage} {done}/{total}"))
    assert held.zero_shot is not None
    assert held.zero_shot.count == 10
    assert held.zero_shot.top1 == 1.0
    assert held.zero_shot.classes == ("cone", "cube", "night_stand", "sphere")
    assert set(held.retrieval) == {"points_to_text", "text_to_points", "points_to_image", "image_to_points"}
    assert held.retrieval["text_to_points"].queries == 4  # captions that are equal are one
    assert held.retrieval["text_to_points"].r5 == 1.0
    contract = held.contract
    assert (contract["shapes"], contract["with category"], contract["classes"], contract["views"]) == (11, 10, 4, 22)
    assert contract["points stored per shape"] == 31
    assert contract["sentences"] == "shapes (10)"
    assert common_contract(Means(), Letters())["teacher"] == "letters"
    assert "embed 11/11" in told


@pytest.mark.parametrize("size", [2, 3])
def test_figures_do_not_depend_on_the_number_of_ranks(size: int) -> None:
    wanted = measured(Ranks.alone())
    for held in on_ranks(size, measured):
        assert held.flat() == pytest.approx(wanted.flat())
        assert held.contract == wanted.contract


class Absent(Letters):
    """A teacher that is not there."""

    def texts(self, captions: Sequence[str]) -> NDArray[np.float32]:
        raise TeacherError(what="teacher", got="nothing", wanted="weights", try_="look")


def told_by_the_first(ranks: Ranks) -> tuple[float, str]:
    held = evaluate_store(Means(), Shelf(), "test", Letters() if ranks.first else Absent(), batch=2, ranks=ranks)
    assert held.zero_shot is not None
    try:
        evaluate_store(Means(), Shelf(), "test", Absent() if ranks.first else Letters(), batch=2, ranks=ranks)
    except TeacherError as wrong:
        return held.zero_shot.top1, str(wrong)
    return held.zero_shot.top1, ""


def test_only_the_first_rank_asks_the_teacher_and_all_hear_what_is_wrong_with_it() -> None:
    for top1, wrong in on_ranks(3, told_by_the_first):
        assert top1 == 1.0
        assert "wanted weights" in wrong


def test_more_classes_than_a_split_has_make_it_harder_not_impossible() -> None:
    held = evaluate_store(Means(), Shelf(), "test", Letters(), classes=[*(w.replace(" ", "_") for w in WORDS), "torus"], sentences="name")
    assert held.zero_shot is not None
    assert held.zero_shot.chance == 0.2
    with pytest.raises(DataError, match="category 'cone'"):
        evaluate_store(Means(), Shelf(), "test", Letters(), classes=["cube"])


def test_an_empty_split_is_named() -> None:
    with pytest.raises(DataError, match="split 'val'"):
        evaluate_store(Means(), Shelf(), "val", Letters())
