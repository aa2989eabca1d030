"""What a recipe wants drawn and embedded: its catalogue in units, in the order wanted, and where what is made of them lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self, TypeVar, cast

from mrdist.data.catalog import Catalog
from mrdist.data.claims import Claims
from mrdist.data.order import TRAIN, Prefix, parts_first, prefix, units_of
from mrdist.data.render import GOLDEN, cameras
from mrdist.data.renders import renders_key
from mrdist.data.rounds import rounds
from mrdist.data.shards import Shards, publish
from mrdist.errors import DataError
from mrdist.progress import Progress, silent
from mrdist.recipe import Recipe, fingerprint
from mrdist.shapes import Shape

Made = TypeVar("Made")

PATIENCE = 24 * 3600.0
"""Seconds another process may need for the catalogue or the teacher."""


class DataConfig(Protocol):
    """The data of a recipe: a part that knows how to open itself."""

    def open(self, store: Path, progress: Progress) -> Catalog:
        """The catalogue; what it needs is made or fetched below `store`, once."""


@dataclass(frozen=True)
class Round:
    """One round of drawing every shape. Small, and knows no catalogue: it may go to any process.

    Round 0 is drawn from where the recipe's cameras stand; for each later one the ring is turned on by the golden angle.
    """

    number: int
    recipe: Recipe  # its `views` are those of this round
    root: Path  # of the catalogue
    formats: tuple[str, ...]  # suffixes of its meshes
    units: int
    renders: Path  # the folder of what is drawn

    def triplets(self, teacher: str) -> Path:
        """The folder of what a teacher, by its fingerprint, makes of it."""
        return Path(self.recipe.store) / "triplets" / fingerprint(self.renders.name, teacher)

    @property
    def embeddings(self) -> Path:
        """The folder of what teachers have said before: for `Cache`."""
        return Path(self.recipe.store) / "embeddings"


@dataclass(frozen=True)
class Work:
    """All that a recipe needs, and in which order."""

    recipe: Recipe
    catalog: Catalog

    @classmethod
    def open(cls, recipe: Recipe, progress: Progress = silent) -> Self:
        """Open the catalogue; the first time, one process alone makes or fetches what it needs.

        Raises:
            DataError: it cannot be had.
            RecipeError: views that cannot be made.
        """
        cameras(recipe.views)  # complains once, rather than of every shape
        place = Path(recipe.store)
        with Claims(place / "claims") as claims:
            return cls(recipe, one_first(claims, data_marker(recipe), lambda: cast(DataConfig, recipe.data).open(place, progress)))

    def has(self, splits: Sequence[str]) -> None:
        """Refuse splits of which the catalogue has no shape.

        Raises:
            DataError: there is one, with those that are there.
        """
        there = sorted({shape.split for shape in self.catalog.shapes})
        for split in splits:
            if split not in there:
                what, wanted = f"split {split!r} of {self.catalog.root}", f"one of {', '.join(there)}"
                try_ = "evaluate.splits=[...] and watch.evaluate_every=0 without it; or a larger data.val, data.test"
                raise DataError(what=what, got="no shape", wanted=wanted, try_="more shapes" if split == TRAIN else try_)

    @cached_property
    def units(self) -> Sequence[Sequence[Shape]]:
        """The shapes of unit k; part k of the triplets holds those of them that could be drawn."""
        return units_of(self.catalog.shapes)

    @cached_property
    def trained(self) -> Prefix:
        """Which shapes of the training split are trained on."""
        return prefix(self.units, self.recipe.fraction)

    @cached_property
    def order(self) -> list[int]:
        """All units, in the order in which epoch 0 of a run of this recipe wants them; then those that it does not want."""
        wanted = self.trained.parts
        return [*parts_first(self.recipe.seed, wanted), *range(wanted, len(self.units))]

    def round(self, number: int = 0) -> Round:
        """One round of drawing."""
        recipe = self.recipe
        if number:
            recipe = replace(recipe, views=replace(recipe.views, turn=(recipe.views.turn + number * GOLDEN) % 360))
        name = renders_key(self.catalog, views=recipe.views, limits=recipe.limits, points=recipe.points)
        formats = tuple(sorted({shape.mesh.suffix for shape in self.catalog.shapes}))
        return Round(number, recipe, self.catalog.root, formats, len(self.units), Path(recipe.store) / "renders" / name)

    def rounds(self, shapes: int) -> int:
        """How many rounds the recipe's steps see, where `shapes` of those to train on could be drawn."""
        return rounds(steps=self.recipe.steps, per_epoch=shapes // self.recipe.batch, every=self.recipe.redraw)

    def undrawn(self, round: Round, *, thorough: bool = False) -> list[int]:
        """The units still to be drawn, in the order wanted; `thorough` as for `Shards.missing`."""
        return Shards(round.renders).missing(self.order, thorough=thorough)

    def untaught(self, round: Round, teacher: str, *, thorough: bool = False) -> list[int]:
        """The units still to be embedded by a teacher, by its fingerprint, in the order wanted; `thorough` likewise."""
        return Shards(round.triplets(teacher)).missing(self.order, thorough=thorough)


def data_marker(recipe: Recipe) -> Path:
    """The file that says that a recipe's catalogue can be opened."""
    return Path(recipe.store) / "prepared" / f"data-{fingerprint(recipe.data)}"


def one_first(claims: Claims, done: Path, make: Callable[[], Made]) -> Made:
    """`make()`: by one process alone the first time, and by all at once when there is only something to be opened."""
    with claims.hold(done.name, within=PATIENCE):
        if not done.exists():
            made = make()
            publish(done, b"")
            return made
    return make()
