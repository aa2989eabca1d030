"""A recipe is read, completed and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mrdist.errors import RecipeError
from mrdist.presets import presets
from mrdist.recipe import fingerprint, load, to_yaml


def test_every_shipped_recipe_loads() -> None:
    assert presets("recipe")
    for name in presets("recipe"):
        assert load(name).name


def test_a_recipe_written_down_and_read_again_is_the_same(tmp_path: Path) -> None:
    recipe = load("smoke", ["optim.lr=0.002", "objective.kind=mrd"])
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    assert load(tmp_path) == recipe
    assert fingerprint(load(tmp_path)) == fingerprint(recipe)


@pytest.mark.parametrize(
    ("word", "guess"),
    [
        ("optim.lrr=1", "'optim.lr'"),
        ("bath=64", "'batch'"),
        ("student=smal", "student=small"),
        ("objective.kind=mdr", "kind: mrd"),
        ("optim.lr=hot", "mrdist config explain optim.lr"),
        ("augment.scale=[1]", "mrdist config explain augment.scale"),
        ("objective.fixed=[1]", "mrdist config explain objective.fixed"),
        ("limits=3", "mrdist config explain limits"),
        ("batch=0", "batch=1"),
        ("sample=20000", "sample="),
        ("fraction=0", "fraction=0.1"),
        ("fraction=1.01", "fraction=0.1"),
        ("redraw=-1", "redraw=1"),
        ("batch", "batch=..."),
    ],
)
def test_a_word_that_means_nothing_is_answered_with_the_nearest_that_does(word: str, guess: str) -> None:
    with pytest.raises(RecipeError) as wrong:
        load("smoke", [word])
    assert guess in str(wrong.value)


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="Try: smoke"):
        load("smok")


def test_broken_yaml_is_an_error_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("a: [1,\nb: }")
    with pytest.raises(RecipeError, match="valid YAML"):
        load(path)


def test_a_preset_is_replaced_by_a_preset_and_its_fields_can_be_changed() -> None:
    recipe = load("smoke", ["student=tiny", "student.drop_path=0.3"])
    tiny = load("mrd/tiny").student
    assert recipe.student == replace(tiny, drop_path=0.3)  # type: ignore[call-arg]


def test_a_preset_with_own_values_replaces_all_of_what_the_base_recipe_had(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: smoke\nname: mine\nstudent: {preset: tiny, depth: 3}\n")
    assert load(path).student == replace(load("mrd/tiny").student, depth=3)  # type: ignore[call-arg]


def test_a_base_recipe_is_read_first(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: smoke\nname: mine\noptim: {lr: 0.5}\n")
    mine, smoke = load(path), load("smoke")
    assert (mine.name, mine.optim.lr, mine.optim.warmup, mine.batch) == ("mine", 0.5, smoke.optim.warmup, smoke.batch)


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load("smoke").batch = 3  # type: ignore[misc]


@pytest.mark.parametrize("silence", [0, 0.2, 5, 599, 600, 601, 3600, 86400])
def test_a_collective_gives_up_after_the_watchdog_has_spoken_however_long_that_waits(silence: float) -> None:
    watch = load("smoke", [f"watch.silence={silence}"]).watch
    speaks_at_the_latest = silence + 5.0  # it looks every five seconds
    assert watch.deadline > speaks_at_the_latest + 60  # a step, and a slow disk
    assert watch.deadline > 600  # to hear of a silence early ends nothing early
