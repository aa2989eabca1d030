"""From a recipe to what can be trained on: catalogue, renders, teacher, triplets; a re-run does only what is missing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar, cast

import numpy as np

from mrdist.data.catalog import Catalog
from mrdist.data.claims import Claims, Worklist
from mrdist.data.renders import Rendered, Renders, render_catalog, renders_key
from mrdist.data.shards import INDEX, Shards, publish
from mrdist.data.triplets import TripletStore, write_index, write_part
from mrdist.errors import DataError
from mrdist.progress import Progress, silent
from mrdist.ranks import this_device
from mrdist.recipe import Recipe, fingerprint
from mrdist.shapes import Points, Triplet
from mrdist.teachers.base import Teacher, TeacherConfig
from mrdist.teachers.cache import Cache, cached_images, cached_texts

Made = TypeVar("Made")

_UNITS_PER_PART = 8
"""Units of renders that make one part of triplets: 256 shapes."""

_PATIENCE = 24 * 3600.0  # seconds another process may need for the catalogue or the teacher


class DataConfig(Protocol):
    """The data of a recipe: a part that knows how to open itself."""

    def open(self, store: Path, progress: Progress) -> Catalog:
        """The catalogue; what it needs is made or fetched below `store`, once."""


@dataclass(frozen=True)
class Prepared:
    """What a recipe trains on."""

    store: TripletStore
    catalog: Catalog
    renders: Renders
    open_teacher: Callable[[], Teacher] = field(repr=False)

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher whose embeddings the store holds; loaded when first asked for."""
        return self.open_teacher()

    @property
    def skipped(self) -> list[dict[str, str]]:
        """The shapes that could not be drawn: id, mesh and reason."""
        return self.renders.skipped


def prepare(recipe: Recipe, progress: Progress = silent) -> Prepared:
    """Do whatever of a recipe's preparation has not been done, and open the result.

    Several processes, on several machines, may prepare one store at once, and so may the ranks of a run: they share the work.
    No collective is called here. On GPUs, each rank's current device should be its own by now.

    Args:
        progress: told of "render" (shapes), "embed" (units of shapes), and what data and teachers do by themselves.

    Raises:
        DataError, TeacherError: what is missing, damaged or impossible.
        RecipeError: there is no such device.
    """
    this_device(recipe.device)  # hours before the teacher needs it
    place = Path(recipe.store)
    with Claims(place / "claims") as claims:
        catalog = _one_first(claims, place / "prepared" / f"data-{fingerprint(recipe.data)}", lambda: _data(recipe).open(place, progress))
        renders = render_catalog(
            catalog,
            views=recipe.views,
            limits=recipe.limits,
            points=recipe.points,
            folder=_renders(recipe, catalog),
            workers=recipe.workers,
            progress=progress,
        )
        teacher = _one_first(
            claims,
            place / "prepared" / f"teacher-{fingerprint(recipe.teacher, renders.folder.name)}",
            lambda: _teacher(recipe, renders, progress),
        )
    folder = place / "triplets" / fingerprint(renders.folder.name, teacher.fingerprint)
    _embed(renders, teacher, folder, points=recipe.points, cache=place / "embeddings", progress=progress)
    publish(_note(recipe, renders), json.dumps({"triplets": folder.name, "teacher": teacher.fingerprint}).encode())
    return _opened(recipe, catalog, renders, folder)


def _one_first(claims: Claims, done: Path, make: Callable[[], Made]) -> Made:
    """`make()`: by one process alone the first time, and by all at once when there is only something to be opened."""
    with claims.hold(done.name, within=_PATIENCE):
        if not done.exists():
            made = make()
            publish(done, b"")
            return made
    return make()


def open_prepared(recipe: Recipe) -> Prepared:
    """What `prepare` made of the same recipe before; renders nothing, embeds nothing, and loads no teacher until it is asked for.

    Raises:
        DataError: it has not been prepared, or is damaged.
    """
    place = Path(recipe.store)
    catalog = _data(recipe).open(place, silent)
    renders = Renders.open(_renders(recipe, catalog))
    note = _note(recipe, renders)
    try:
        folder = place / "triplets" / json.loads(note.read_bytes())["triplets"]
    except (OSError, ValueError, LookupError, TypeError):
        raise DataError(what=str(note), got="no note of triplets", wanted="a prepared recipe", try_="mrdist prepare") from None
    return _opened(recipe, catalog, renders, folder)


def _opened(recipe: Recipe, catalog: Catalog, renders: Renders, folder: Path) -> Prepared:
    # The teacher that embedded is let go: a run needs its memory, and may never ask for it again.
    return Prepared(TripletStore.open(folder), catalog, renders, lambda: _teacher(recipe, renders, silent))


def _data(recipe: Recipe) -> DataConfig:
    return cast(DataConfig, recipe.data)


def _renders(recipe: Recipe, catalog: Catalog) -> Path:
    key = renders_key(catalog, views=recipe.views, limits=recipe.limits, points=recipe.points)
    return Path(recipe.store) / "renders" / key


def _note(recipe: Recipe, renders: Renders) -> Path:
    return Path(recipe.store) / "prepared" / f"{fingerprint(renders.folder.name, recipe.teacher)}.json"


def _teacher(recipe: Recipe, renders: Renders, progress: Progress) -> Teacher:
    def pairs() -> Iterator[tuple[Sequence[bytes], Sequence[str]]]:
        return ((one.views, one.captions) for one in renders if one.split == "train")

    config = cast(TeacherConfig, recipe.teacher)
    return config.open(Path(recipe.store) / "teachers", pairs, device=str(this_device(recipe.device)), progress=progress)


def _embed(renders: Renders, teacher: Teacher, folder: Path, *, points: int, cache: Path, progress: Progress) -> None:
    """Ask the teacher about every view and caption, and write triplets; part k holds the shapes of units 8k to 8k + 7."""
    shards = Shards(folder)
    parts = [range(first, min(first + _UNITS_PER_PART, renders.units)) for first in range(0, renders.units, _UNITS_PER_PART)]
    missing = shards.missing(range(len(parts)))
    if not missing and shards.has(INDEX):
        return
    folder.mkdir(parents=True, exist_ok=True)
    shards.sweep()
    done = renders.units - sum(len(parts[number]) for number in missing)
    with Claims(folder) as claims, Cache(cache, teacher.fingerprint) as known:
        work = Worklist(missing, shards, claims)
        while len(work) > 0:
            number = work.take()
            if number is None:
                time.sleep(0.2)
                continue
            drawn: list[Rendered] = []
            triplets: list[Triplet] = []
            for unit in parts[number]:
                drawn += renders.unit(unit)
                triplets += embedded(drawn[len(triplets) :], teacher, known)
                done += 1
                progress("embed", done, renders.units)
            write_part(shards, number, triplets, [one.split for one in drawn], width=teacher.width, points=points)
            work.done(number)
    progress("embed", renders.units, renders.units)  # with what other processes did meanwhile
    write_index(shards, len(parts), width=teacher.width, points=points)


def embedded(drawn: Sequence[Rendered], teacher: Teacher, known: Cache) -> list[Triplet]:
    """Shapes with what the teacher says of their views and captions."""
    views = [view for one in drawn for view in one.views]
    captions = [caption for one in drawn for caption in one.captions]
    image = cached_images(teacher, known, views).astype(np.float16)
    text = cached_texts(teacher, known, captions).astype(np.float16)
    out: list[Triplet] = []
    for one in drawn:
        points = Points(one.xyz.astype(np.float32), np.divide(one.rgb, 255, dtype=np.float32))
        v, t = len(one.views), len(one.captions)
        out.append(Triplet(one.id, one.category, points, image[:v], text[:t], one.captions))
        image, text = image[v:], text[t:]
    return out
