"""Uni3D's layouts (arXiv 2310.06773): JSON lists of clouds and of views' embeddings to train on, and its list of Objaverse-LVIS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mrdist.data.catalog import hashed_split
from mrdist.data.sources import pickled
from mrdist.data.sources.foreign import (
    LVIS,
    NOTHING,
    SHAPE_LIMIT,
    Entry,
    Table,
    cloud,
    file_below,
    measured_under,
    shape_file,
    tree,
    unit_rows,
)
from mrdist.errors import DataError
from mrdist.shapes import Triplet

TEACHER = "EVA02-E-14-plus:laion2b_s9b_b144k"


@dataclass(frozen=True)
class Uni3D:
    """Shapes to train on, by the JSON files that its configuration calls PC_PATH, IMAGE_PATH and GPT_FILTER."""

    root: Path  # PC_PATH_ROOT
    list: Path
    images: Path | None = None
    views: Path | None = None  # IMAGE_PATH_ROOT
    filter: Path | None = None
    points: int = 10_000
    up: str = "y"
    val: float = 0.005
    test: float = 0.005

    teacher = TEACHER

    def entries(self) -> Sequence[Entry]:
        """The shapes of the list.

        Raises:
            DataError: it is missing, or is no list of clouds.
        """
        held = _mapping(self.list)
        flags = _mapping(self.filter) if self.filter else {}
        found = []
        for name, file in held.items():
            if not isinstance(file, str):
                raise DataError(what=f"{self.list}: {name}", got=type(file).__name__, wanted="a path", try_="see PC_PATH of Uni3D")
            flag = flags.get(name)
            noise = "-Objaverse" in file and isinstance(flag, Mapping) and flag.get("flag") == "N"
            found.append(Entry(name, file, hashed_split(name, self.val, self.test), free_text=not noise))
        return found

    def triplet(self, entry: Entry) -> Triplet:
        """A shape with the rows of its views and texts; the texts themselves are not stored there, so its captions are empty.

        Raises:
            DataError: as `Source.triplet`.
        """
        held = shape_file(self.root, entry)
        texts = held.get("text") if entry.free_text else None
        if isinstance(texts, Sequence) and "-Objaverse" in entry.file:
            texts = texts[:1]
        # Their loader looks for captions under names that end in a semicolon; whoever wrote files for it may have followed.
        captions = [held.get(name, held.get(f"{name};")) for name in ("blip_caption", "msft_caption")]
        text = unit_rows([row for some in (texts, *captions, held.get("retrieval_text")) for row in _arrays(some)])
        views = (self._views.get(entry.id) or ()) if self.images else ()
        image = unit_rows([self._view(str(path)) for path in views])
        points = cloud(held.get("xyz"), held.get("rgb"), up=self.up, count=self.points)
        return Triplet(entry.id, entry.category, points, image, text, ("",) * len(text))

    def table(self) -> None:
        """None: it asks the text tower."""

    def contract(self) -> dict[str, str]:
        """As `Source.contract`."""
        return measured_under(f"{self.list.name}, in Uni3D's layout", self)

    def _view(self, path: str) -> Any:
        return pickled.read(file_below(self.views or self.root, path if path.endswith(".npy") else f"{path}.npy"), limit=SHAPE_LIMIT)

    @cached_property
    def _views(self) -> Mapping[str, Any]:
        assert self.images is not None
        return _mapping(self.images)


@dataclass(frozen=True)
class Uni3DLvis:
    """Objaverse-LVIS as Uni3D tests on it: objaverse_lvis/lvis_testset.txt, and a file per shape."""

    root: Path
    points: int = 10_000
    up: str = "y"

    teacher = ""  # features in these files are 1,280 wide: not those of Uni3D's teacher

    def entries(self) -> Sequence[Entry]:
        """The shapes of the test set.

        Raises:
            DataError: there is no list, or a line of it is not `class,name,id,path`.
        """
        path = self.root / "lvis_testset.txt"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as wrong:
            raise DataError(what=path, got=str(wrong), wanted="the list of the test set", try_="unpack test_datasets.zip") from None
        rows = [line.strip().split(",") for line in lines if line.strip()]
        for row in rows:
            if len(row) != 4:
                raise DataError(what=path, got=",".join(row)[:100], wanted="class,name,id,path", try_="unpack test_datasets.zip again")
        return [Entry(f"Objaverse/{uid}", file, "test", name) for _, name, uid, file in rows]

    def triplet(self, entry: Entry) -> Triplet:
        """A cloud and its class.

        Raises:
            DataError: as `Source.triplet`.
        """
        held = shape_file(self.root, entry)
        points = cloud(held.get("xyz"), held.get("rgb"), up=self.up, count=self.points)
        return Triplet(entry.id, entry.category, points, NOTHING, NOTHING)

    def table(self) -> Table | None:
        """None: Uni3D asks the text tower."""
        return None

    def contract(self) -> dict[str, str]:
        """As `Source.contract`."""
        return measured_under(f"{LVIS}, Uni3D's files", self)


def _mapping(path: Path) -> Mapping[str, Any]:
    held = tree(path)
    if not isinstance(held, dict):
        raise DataError(what=path, got=type(held).__name__, wanted="an object, {id: ...}", try_="see whether it is the right file")
    return held


def _arrays(some: Any) -> Sequence[Any]:
    """Embeddings under one name: an array, or a list of them. Text that nobody embedded is left out, as their loader does."""
    if isinstance(some, np.ndarray):
        return [some] if some.size else []
    return [one for one in some if not isinstance(one, str)] if isinstance(some, Sequence) and not isinstance(some, str) else []
