"""A converted store: what `mrdist data convert` made of another project's data, trained on or measured on as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mrdist.data.catalog import Catalog
from mrdist.data.shards import Shards
from mrdist.data.triplets import TripletStore
from mrdist.errors import DataError, RecipeError
from mrdist.kinds import Part
from mrdist.progress import Progress, silent
from mrdist.recipe import Recipe

SOURCE = "source"
"""The unit that says what a store was converted from."""


@dataclass(frozen=True)
class ConvertedConfig(Part):
    """`data: {kind: converted, path: ...}`; neither views, limits nor points of the recipe are looked at."""

    kind: str = "converted"
    path: str = ""  # the folder that `mrdist data convert` wrote

    @property
    def width(self) -> int:
        """The length of its embeddings.

        Raises:
            DataError: as `converted`.
        """
        return self.converted().store.width

    def check(self, recipe: Recipe) -> None:
        """Refuse what asks for meshes.

        Raises:
            RecipeError: shapes are to be drawn again.
        """
        if recipe.redraw:
            raise RecipeError(what="redraw", got=recipe.redraw, wanted="0: there are no meshes to draw", try_="redraw=0")

    def converted(self) -> Converted:
        """The store.

        Raises:
            DataError: no path was given, or the folder is not a whole converted store.
        """
        if not self.path:
            raise DataError(what="data.path", got="nothing", wanted="a converted store", try_="mrdist data convert, then data.path=FOLDER")
        return Converted.open(Path(self.path).expanduser())

    def open(self, store: Path, progress: Progress = silent) -> Catalog:
        """There is no catalogue: clouds and features were all that was published.

        Raises:
            DataError: always.
        """
        what, wanted = f"data.path={self.path}", "a catalogue of meshes, to be drawn"
        raise DataError(what=what, got="a converted store, which has no meshes", wanted=wanted, try_="data=folder data.path=FOLDER")


@dataclass(frozen=True)
class Converted:
    """A whole store, and what is known of where it came from."""

    store: TripletStore
    teacher: str  # "MODEL:TAG" of open_clip, whose embeddings it holds; empty: it holds none
    classes: tuple[str, ...]  # of a test set: everything that a shape can be taken for
    rows: NDArray[np.float32]  # [C, E]: what the teacher said of each class; [0, 0] where nobody stored it
    contract: dict[str, Any]  # what figures measured on it must say

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The store in a folder.

        Raises:
            DataError: it is not complete, or not a converted one.
        """
        shards = Shards(folder)
        if not shards.has(SOURCE):
            raise DataError(
                what=folder, got="other things, or nothing", wanted="a converted store", try_="mrdist data convert PROJECT FOLDER"
            )
        arrays, about = shards.read(SOURCE)
        notes = about.notes
        store = TripletStore.open(folder)
        contract = {**notes["contract"], "listed": notes["listed"], "could be read": len(store)}
        return cls(store, notes["teacher"], tuple(notes["classes"]), arrays["classes"], contract)
