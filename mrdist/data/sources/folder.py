"""Your own meshes: a folder with a manifest, with one captions file, or with nothing but meshes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mrdist.data.catalog import SPLITS, Catalog, check_shares
from mrdist.data.manifests import find
from mrdist.errors import DataError, RecipeError
from mrdist.kinds import Part
from mrdist.progress import Progress, silent


@dataclass(frozen=True)
class FolderConfig(Part):
    """`data: {kind: folder, path: ...}`; see `Catalog.open` for what may lie there."""

    kind: str = "folder"
    path: str = ""  # the folder, or the manifest in it
    up: str = "y"  # of shapes that do not say theirs: glTF is y up; scans and CAD files are often z up
    val: float = 0.1  # share held out for watching, where the manifest names no splits
    test: float = 0.1  # share held out for the figures at the end
    partial: bool = False  # go on without meshes that are listed and missing

    splits: ClassVar[tuple[str, ...]] = SPLITS  # a manifest may name any of them

    def check(self, recipe: object) -> None:
        """Refuse shares that leave nothing to train on, and an axis that is none.

        Raises:
            RecipeError: as `check_shares`; or `up` is not x, y or z.
        """
        check_shares(self.val, self.test)
        if self.up not in ("x", "y", "z"):
            raise RecipeError(what="data.up", got=repr(self.up), wanted="x, y or z", try_="data.up=y, as in glTF")

    def look(self) -> None:
        """Refuse a path where no shapes can be.

        Raises:
            DataError: no path was given, or there is nothing at it.
        """
        if not self.path:
            raise DataError(what="data.path", got="nothing", wanted="a folder of meshes", try_="data.path=my/meshes")
        path = Path(self.path).expanduser()
        if not os.path.exists(path):
            what, wanted = f"data.path={self.path}", "a folder of meshes, or a manifest beside them"
            raise DataError(what=what, got="no such file or folder", wanted=wanted, try_="an absolute path")
        find(path)

    def open(self, store: Path, progress: Progress = silent) -> Catalog:
        """The catalogue, where it lies: nothing is copied into the store.

        Raises:
            DataError: as `look`, or as `Catalog.open`.
        """
        self.look()
        return Catalog.open(Path(self.path).expanduser(), up=self.up, val=self.val, test=self.test, partial=self.partial)
