"""What contradicts itself in a recipe is found before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from mrdist.cli.contradictions import contradictions
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
