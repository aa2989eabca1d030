"""A recipe whose data bring their embeddings along: nothing is drawn, nobody is asked, and the store is trained on where it lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

from mrdist.data.converted import Converted, ConvertedConfig
from mrdist.data.order import TRAIN, Prefix, prefix
from mrdist.data.triplets import TripletStore
from mrdist.errors import DataError, TeacherError
from mrdist.progress import silent
from mrdist.ranks import this_device
from mrdist.recipe import Recipe
from mrdist.shapes import Shape
from mrdist.teachers.base import Teacher, TeacherConfig
from mrdist.teachers.precomputed import Precomputed, PrecomputedConfig, name_of


def brings(recipe: Recipe) -> bool:
    """Whether there is nothing to prepare."""
    return isinstance(recipe.data, ConvertedConfig)


class Brought(NamedTuple):
    """What is there without preparing anything."""

    store: TripletStore
    open_teacher: Callable[[], Teacher]


def brought(recipe: Recipe) -> Brought:
    """The converted store of a recipe that `brings` one, and whoever embedded it.

    Raises:
        DataError, TeacherError: as `fitting`.
    """
    held = fitting(recipe)
    store = held.store if recipe.fraction == 1 else TripletStore.open(held.store.folder, _prefix(held.store, recipe.fraction))
    return Brought(store, lambda: _teacher(recipe, held))


def fitting(recipe: Recipe) -> Converted:
    """The converted store of a recipe that `brings` one; of its shapes, none is looked at.

    Raises:
        DataError: there is none, or none to train on, or it lacks a split that the recipe measures.
        TeacherError: the recipe's teacher is not the one that embedded it.
    """
    held = cast(ConvertedConfig, recipe.data).converted()
    folder = held.store.folder
    if not held.teacher or TRAIN not in held.store.splits:
        try_ = f"mrdist evaluate MODEL data=converted data.path={folder}"
        raise DataError(what=folder, got="a test set", wanted="a set to train on", try_=try_)
    if lacking := sorted(set(recipe.measured) - set(held.store.splits)):
        try_ = "mrdist data convert with larger val= and test=; or evaluate.splits=[val] watch.evaluate_every=0"
        raise DataError(what=folder, got=f"no shape of split {lacking[0]!r}", wanted="what the recipe measures", try_=try_)
    if not isinstance(recipe.teacher, PrecomputedConfig) and name_of(recipe.teacher) != held.teacher:
        got, wanted = f"a teacher of kind {recipe.teacher.kind}", f"the one that embedded the store, {held.teacher}"
        raise TeacherError(what=f"data.path={folder}", got=got, wanted=wanted, try_="teacher=precomputed")
    return held


def _teacher(recipe: Recipe, held: Converted) -> Teacher:
    if isinstance(recipe.teacher, PrecomputedConfig):
        return Precomputed(held.teacher, held.store.width, {})
    config = cast(TeacherConfig, recipe.teacher)
    return config.open(Path(recipe.store) / "teachers", lambda: iter(()), device=str(this_device(recipe.device)), progress=silent)


def _prefix(store: TripletStore, fraction: float) -> Prefix:
    """The first shapes of a store to train on."""
    units = [
        [Shape(store.id(row), Path(), split=TRAIN) for row in store.within(part, TRAIN).tolist()] for part in range(store.parts(TRAIN))
    ]
    return prefix(units, fraction)
