"""What a recipe trains on, once somebody has prepared it, or while somebody does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, takewhile
from pathlib import Path
from typing import cast

from mrdist.data.catalog import Catalog
from mrdist.data.renders import Renders
from mrdist.data.triplets import TripletStore
from mrdist.data.waiting import Wait
from mrdist.errors import DataError
from mrdist.prepare.brought import brings, brought
from mrdist.prepare.units import Note, finished, known_teacher, learns, note_of
from mrdist.prepare.work import DataConfig, Work, data_marker
from mrdist.progress import Progress, silent
from mrdist.recipe import Recipe
from mrdist.teachers.base import Teacher
from mrdist.teachers.recalled import Recalled


def _never(number: int) -> None:
    """No round is drawn again."""


@dataclass(frozen=True)
class Prepared:
    """What a recipe trains on."""

    store: TripletStore  # of round 0; its training split is as large as the recipe's `fraction` says
    catalog: Catalog  # empty, like `renders`, where the data brought their embeddings
    renders: Renders  # of round 0
    open_teacher: Callable[[], Teacher] = field(repr=False)
    later: Callable[[int], TripletStore | None] = field(default=_never, repr=False)  # another round; None until it is complete
    shown: int = 0  # the unit that is trained on first

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher whose embeddings the store holds; loaded when it is asked something new."""
        return self.open_teacher()

    @property
    def skipped(self) -> list[dict[str, str]]:
        """The shapes that could not be drawn: id, mesh and reason."""
        return self.renders.skipped


def open_prepared(recipe: Recipe) -> Prepared:
    """What `prepare` made of the same recipe before; renders nothing, embeds nothing, and loads no teacher until it is asked for.

    Raises:
        DataError: it has not been prepared, or is damaged.
    """
    if brings(recipe):
        store, open_teacher = brought(recipe)
        return Prepared(store, Catalog(store.folder, ()), Renders(store.folder, 0), open_teacher)
    return opened(Work(recipe, cast(DataConfig, recipe.data).open(Path(recipe.store), silent)))


def complete(work: Work) -> bool:
    """Whether nobody has to render or teach: every unit is there, and as long as it was when it was written.

    False where views are redrawn: whether later rounds are there is not looked at.
    """
    first = work.round()
    note = note_of(first)
    if work.recipe.redraw or note is None or not (finished(first.renders) and finished(first.triplets(note.teacher))):
        return False
    return not (work.undrawn(first) or work.untaught(first, note.teacher))


def opened(work: Work) -> Prepared:
    """What was made of a recipe whose catalogue is open.

    Raises:
        DataError: it has not been prepared, or is damaged.
    """
    first = work.round()
    renders, note = Renders.open(first.renders), note_of(first)
    if note is None:
        raise DataError(what=str(first.renders), got="no note of triplets", wanted="a prepared recipe", try_="mrdist prepare")
    return _prepared(work, note, renders, TripletStore.open(first.triplets(note.teacher), work.trained))


def follow(recipe: Recipe, progress: Progress = silent, *, splits: Sequence[str] = ()) -> Prepared:
    """What others prepare, now or soon: `mrdist prepare` with the same recipe, or the pools of a cluster. Makes nothing itself.

    Returns as soon as the teacher is known; its store then grows. No collective is called here.

    Args:
        progress: told of "others draw" (units) as long as the teacher is not known.
        splits: must be in the catalogue; checked as soon as that is known.

    Raises:
        DataError: nobody prepares the recipe: nothing new for `watch.silence` seconds, and no claim; or there is no such split.
    """
    if brings(recipe):
        return open_prepared(recipe)
    place = Path(recipe.store)
    claims, patience = place / "claims", recipe.watch.silence
    Wait([claims], patience).until(data_marker(recipe).exists, f"the catalogue of {recipe.name} in {place}")
    work = Work(recipe, cast(DataConfig, recipe.data).open(place, silent))
    work.has(splits)
    first = work.round()

    def look() -> None:
        progress("others draw", sum(1 for _ in first.renders.glob("[0-9]*.json")), first.units)

    Wait([claims, first.renders], patience).until(lambda: note_of(first) is not None, f"the teacher of {recipe.name} in {place}", look)
    note = note_of(first)
    assert note is not None

    def folders() -> list[Path]:
        """Where others write: round 0, and the last of the later ones that anybody has begun."""
        begun = takewhile(lambda round: round.renders.is_dir(), map(work.round, count(1) if recipe.redraw else ()))
        return [claims, *(place for round in (first, *deque(begun, 1)) for place in (round.renders, round.triplets(note.teacher)))]

    store = TripletStore.follow(
        first.triplets(note.teacher),
        Wait(folders, patience),
        parts=first.units,
        width=note.width,
        points=recipe.points,
        trained=work.trained,
    )
    return _prepared(work, note, Renders(first.renders, first.units), store)


def _prepared(work: Work, note: Note, renders: Renders, store: TripletStore) -> Prepared:
    def later(number: int) -> TripletStore | None:
        folder = work.round(number).triplets(note.teacher)
        return TripletStore.open(folder) if finished(folder) else None

    def teacher() -> Teacher:
        # The one that embedded is let go: a run needs its memory, and asks it little.
        said, made_here = Path(work.recipe.store) / "sentences", learns(work.recipe)
        return Recalled(note.teacher, note.width, said, lambda: known_teacher(work.round()), made_here=made_here)

    return Prepared(store, work.catalog, renders, teacher, later, work.order[0])
