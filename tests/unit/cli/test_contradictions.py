"""What contradicts itself in a recipe is found before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from mrdist.cli.contradictions import contradictions
from mrdist.errors import RecipeError
from mrdist.kinds import Part
from mrdist.presets import presets
from mrdist.recipe import load


@dataclass(frozen=True)
class Curious(Part):
    """An objective that wants more than any teacher says."""

    kind: str = "curious"
    needs: ClassVar[frozenset[str]] = frozenset({"image", "smell"})


@pytest.mark.parametrize("name", presets("recipe"))
def test_no_shipped_recipe_contradicts_itself(name: str) -> None:
    assert not contradictions(load(name))


@pytest.mark.parametrize("teacher", ["fitted", "openclip-vit-b-32"])
def test_an_objective_that_needs_what_the_teacher_has_not_is_named(teacher: str) -> None:
    (found,) = contradictions(replace(load("smoke", [f"teacher={teacher}"]), objective=Curious()))
    assert "smell" in found.wanted


@pytest.mark.parametrize("word", ["optim.warmup=500", "watch.evaluate_every=501"])
def test_a_schedule_longer_than_the_run_is_named(word: str) -> None:
    (found,) = contradictions(load("smoke", [word]))
    assert word.partition("=")[0] in found.what


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("device=gpu", "device=auto"),
        ("views.ring=openshape", "views.ring=openshape12"),
        ("views.pixels=0", "views.pixels=224"),
        ("evaluate.templates=shape", "evaluate.templates=shapes"),
        ("evaluate.splits=[tset]", "evaluate.splits=[test]"),
        ("evaluate.splits=[]", "evaluate.splits=[test]"),
        ("evaluate.batch=0", "evaluate.batch=64"),
    ],
)
def test_a_name_that_nobody_knows_is_named_with_one_that_is_known(word: str, remedy: str) -> None:
    (found,) = contradictions(load("smoke", [word]))
    assert found.try_ == remedy
    assert not contradictions(load("smoke", [remedy]))


@pytest.mark.parametrize("mode", ["mode=star", "backend=cuda", "compile=yes", "operands=fp8"])
def test_a_way_to_tile_that_nobody_knows_is_refused(mode: str) -> None:
    with pytest.raises(RecipeError, match=r"=auto|operands=input"):
        load("smoke", [f"objective.tiling.{mode}"])


@pytest.mark.parametrize(
    ("words", "split"),
    [
        (["data.unseen=0"], "unseen"),
        (["data=furniture"], "unseen"),
        (["data=furniture", "data.test=0"], "test"),
        (["data=folder"], ""),
    ],
)
def test_splits_that_data_of_a_kind_can_never_have_are_named(words: list[str], split: str) -> None:
    found = contradictions(load("smoke", words))
    assert [problem.got for problem in found] == ([repr(split)] if split == "unseen" else ["'test'", "'unseen'"] if split else [])


def test_watching_needs_shapes_to_watch() -> None:
    (found,) = contradictions(load("smoke", ["data.val=0", "watch.evaluate_every=10"]))
    assert found.what == "watch.evaluate_every"


def test_data_that_do_not_say_their_splits_are_asked_when_they_are_opened() -> None:
    assert not contradictions(replace(load("smoke", ["evaluate.splits=[held_out]"]), data=Part(kind="theirs")))
