"""Sentences read well, and a class is the middle of its sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mrdist.errors import DataError, RecipeError
from mrdist.evaluation.prompts import AT_ONCE, TEMPLATES, article, class_table, sentence, spoken, templates


def texts(sentences: Sequence[str]) -> NDArray[np.float32]:
    """A row per sentence that depends on its letters alone; not of unit length."""
    rows = [[text.count(letter) + 0.1 for letter in "abcdefgh"] for text in sentences]
    return np.array(rows, dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("chair", "a chair"),
        ("armchair", "an armchair"),
        ("night_stand", "a night stand"),
        ("ice_cream  maker", "an ice cream maker"),
        ("hourglass", "an hourglass"),
        ("unicycle", "a unicycle"),
        ("uninhabited house", "an uninhabited house"),
        ("umbrella", "an umbrella"),
        ("CD_player", "a CD player"),
        ("ewer", "a ewer"),
        ("Eames chair", "an Eames chair"),
        ("European plug", "a European plug"),
        ("utensil", "a utensil"),
        ("urn", "an urn"),
    ],
)
def test_a_name_takes_the_article_of_its_sound(name: str, said: str) -> None:
    assert sentence("{a}", name) == said
    assert f"{article(spoken(name))} {spoken(name)}" == said


def test_a_bare_place_takes_the_bare_name() -> None:
    assert sentence("a {}.", "armchair") == "a armchair."


def test_every_set_of_ours_has_a_place_for_the_name_in_every_sentence() -> None:
    for lines in TEMPLATES.values():
        assert len(set(lines)) == len(lines)
        assert all("pine_tree" not in sentence(line, "pine_tree") and "pine tree" in sentence(line, "pine_tree") for line in lines)


def test_sentences_come_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a {}.\n\nthe {a}\n")
    (tmp_path / "list.json").write_text(json.dumps(["a {}."]))
    (tmp_path / "many.json").write_text(json.dumps({"modelnet40_64": ["a {}.", "one {}."], "none": []}))
    assert templates(str(tmp_path / "mine.txt")) == ("a {}.", "the {a}")
    assert templates(str(tmp_path / "list.json")) == ("a {}.",)
    assert templates(f"{tmp_path / 'many.json'}:modelnet40_64") == ("a {}.", "one {}.")
    for wrong in ("shape", "many.json", "many.json:none", "many.json:other", "no.json"):
        with pytest.raises(RecipeError, match="templates"):
            templates(str(tmp_path / wrong))


def test_a_sentence_without_a_place_for_the_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("a {}\na chair\n")
    with pytest.raises(RecipeError, match="place for a name"):
        templates(str(tmp_path / "bad.txt"))


def test_a_class_is_the_normalised_mean_of_its_normalised_sentences() -> None:
    lines = TEMPLATES["shapes"]
    table = class_table(["chair", "bed", "night_stand"], lines, texts)
    for row, name in zip(table, ("chair", "bed", "night_stand"), strict=True):
        middle = np.zeros(8)
        for line in lines:
            v = texts([sentence(line, name)])[0].astype(np.float64)
            middle += v / np.sqrt((v**2).sum())
        assert np.allclose(row, middle / np.sqrt((middle**2).sum()), atol=1e-6)


def test_many_classes_are_read_in_several_calls() -> None:
    calls: list[int] = []

    def counting(sentences: Sequence[str]) -> NDArray[np.float32]:
        calls.append(len(sentences))
        return texts(sentences)

    names = [f"{a}{b}" for a in "abcdefghijkl" for b in "abcdefghijklmnopqrstuvwxyz"]
    table = class_table(names * 1, ["{}"] * 20, counting)
    assert len(table) == len(names)
    assert len(calls) > 1
    assert max(calls) <= AT_ONCE
    assert np.allclose(table, class_table(names, ["{}"], texts), atol=1e-6)


def test_two_classes_that_read_the_same_are_refused() -> None:
    with pytest.raises(DataError, match="'night stand' more than once"):
        class_table(["night_stand", "night stand"], ["{}"], texts)
    with pytest.raises(DataError, match="none"):
        class_table([], ["{}"], texts)
