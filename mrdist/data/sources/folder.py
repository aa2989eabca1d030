"""Your own meshes: a folder with a manifest, with one captions file, or with nothing but meshes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mrdist.data.catalog import Catalog, check_shares
from mrdist.errors import DataError
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

    def check(self, recipe: object) -> None:
        """Refuse shares that leave nothing to train on.

        Raises:
            RecipeError: as `check_shares`.
        """
        check_shares(self.val, self.test)

    def open(self, store: Path, progress: Progress = silent) -> Catalog:
        """The catalogue, where it lies: nothing is copied into the store.

        Raises:
            DataError: no path was given, or as `Catalog.open`.
        """
        if not self.path:
            raise DataError(what="data.path", got="nothing", wanted="a folder of meshes", try_="data.path=my/meshes")
        return Catalog.open(Path(self.path).expanduser(), up=self.up, val=self.val, test=self.test, partial=self.partial)
