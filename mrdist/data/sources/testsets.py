"""ModelNet40 and ScanObjectNN as OpenShape published them, and Uni3D again: all clouds of a test set in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mrdist.data.sources import pickled
from mrdist.data.sources.foreign import NOTHING, SHAPE_LIMIT, Entry, Table, cloud, field, measured_under, tree, unit_rows
from mrdist.data.sources.openshape import TEACHER
from mrdist.errors import DataError
from mrdist.shapes import Triplet

_LIMIT = 8 << 30  # bytes of a file with thousands of clouds

SCANNED = (
    "bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table", "bed", "pillow", "sink", "sofa", "toilet",
)  # fmt: skip
"""The classes of ScanObjectNN by their numbers."""

_TABLE = "cat_name_pt_feat.npy"


@dataclass(frozen=True)
class ModelNet40:
    """test_split.json (name and category of every shape) and test_pc.npy (their clouds, in that order)."""

    root: Path
    points: int = 10_000
    up: str = "y"

    @property
    def teacher(self) -> str:
        """Who said what the table holds; empty where there is none (Uni3D's files)."""
        return _teacher(self.root)

    def entries(self) -> Sequence[Entry]:
        """The shapes of the test split.

        Raises:
            DataError: there is no list, or it is not of these clouds.
        """
        rows = tree(self.root / "test_split.json")
        if not isinstance(rows, list) or not rows:
            raise DataError(what=self.root / "test_split.json", got=type(rows).__name__, wanted="a list of shapes", try_="fetch it again")
        found = [Entry(field(row, "name", "id"), "test_pc.npy", "test", field(row, "category"), k) for k, row in enumerate(rows)]
        if len(self._clouds) != len(found):
            got = f"{len(self._clouds)} clouds"
            raise DataError(
                what=self.root / "test_pc.npy", got=got, wanted=f"{len(found)}, as test_split.json says", try_="fetch both again"
            )
        return found

    def triplet(self, entry: Entry) -> Triplet:
        """A cloud and its class.

        Raises:
            DataError: as `Source.triplet`.
        """
        held = self._clouds[entry.row]
        if not isinstance(held, Mapping):
            raise DataError(what=f"cloud {entry.row}", got=type(held).__name__, wanted="a dict of arrays", try_="fetch its file again")
        points = cloud(held.get("xyz"), held.get("rgb"), up=self.up, count=self.points)
        return Triplet(entry.id, entry.category, points, NOTHING, NOTHING)

    def table(self) -> Table | None:
        """As `Source.table`."""
        return _table(self.root / _TABLE, sorted({entry.category for entry in self.entries()}))

    def contract(self) -> dict[str, str]:
        """As `Source.contract`."""
        return measured_under("ModelNet40 test (published: 2,468 shapes of 40 classes), OpenShape's clouds", self)

    @cached_property
    def _clouds(self) -> Sequence[Any]:
        held = pickled.read(self.root / "test_pc.npy", limit=_LIMIT)
        if not isinstance(held, list):
            raise DataError(what=self.root / "test_pc.npy", got=type(held).__name__, wanted="a list of clouds", try_="fetch it again")
        return held


@dataclass(frozen=True)
class ScanObjectNN:
    """xyz_label.npy: a dict of `xyz` [S, N, 3], `label` [S], and perhaps `rgb`."""

    root: Path
    points: int = 10_000
    up: str = "y"

    @property
    def teacher(self) -> str:
        """Who said what the table holds; empty where there is none (Uni3D's files)."""
        return _teacher(self.root)

    def entries(self) -> Sequence[Entry]:
        """The shapes, called by their numbers, since the file has no names.

        Raises:
            DataError: the file is missing, or is not that.
        """
        labels = self._held.get("label")
        if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.size != len(self._held["xyz"]):
            raise self._wrong("no label for every cloud")
        if not ((labels >= 0) & (labels < len(SCANNED))).all():
            raise self._wrong(f"labels that are no numbers below {len(SCANNED)}")
        return [Entry(f"scanobjectnn/{k}", "xyz_label.npy", "test", SCANNED[label], k) for k, label in enumerate(labels.ravel().tolist())]

    def triplet(self, entry: Entry) -> Triplet:
        """A cloud and its class.

        Raises:
            DataError: as `Source.triplet`.
        """
        rgb = self._held["rgb"][entry.row] if "rgb" in self._held else None
        return Triplet(entry.id, entry.category, cloud(self._held["xyz"][entry.row], rgb, up=self.up, count=self.points), NOTHING, NOTHING)

    def table(self) -> Table | None:
        """As `Source.table`."""
        return _table(self.root / _TABLE, SCANNED)

    def contract(self) -> dict[str, str]:
        """As `Source.contract`."""
        clouds = self._held["xyz"]
        said = measured_under("ScanObjectNN (published: 2,890 shapes of 15 classes, no official split), OpenShape's xyz_label.npy", self)
        stored = len(clouds[0])
        if stored != self.points:
            said["points stored"] = f"{stored} in the file, {'repeated' if stored < self.points else 'thinned'} to {self.points}"
        return said if "rgb" in self._held else {**said, "colour in the files": "none: grey 0.4"}

    @cached_property
    def _held(self) -> Mapping[str, Any]:
        held = pickled.read(self.root / "xyz_label.npy", limit=_LIMIT)
        clouds = held.get("xyz") if isinstance(held, dict) else None
        if not isinstance(held, dict) or not isinstance(clouds, np.ndarray | list) or not len(clouds):
            raise self._wrong("no clouds under 'xyz'")
        if "rgb" in held and (not isinstance(held["rgb"], np.ndarray | list) or len(held["rgb"]) != len(clouds)):
            raise self._wrong("colours that are not those of the clouds")
        return held

    def _wrong(self, got: str) -> DataError:
        return DataError(what=self.root / "xyz_label.npy", got=got, wanted="xyz [S, N, 3] and label [S]", try_="fetch it again")


def _teacher(root: Path) -> str:
    return TEACHER if (root / _TABLE).is_file() else ""


def _table(path: Path, names: Sequence[str]) -> Table | None:
    """The rows under `open_clip_text_feat` of every class; None where there is no such file.

    Raises:
        DataError: a class is missing.
    """
    if not path.is_file():
        return None
    held = pickled.read(path, limit=SHAPE_LIMIT)
    rows = []
    for name in names:
        one = held.get(name) if isinstance(held, dict) else None
        found = unit_rows([one.get("open_clip_text_feat") if isinstance(one, Mapping) else None])
        if len(found) != 1:
            raise DataError(
                what=path, got=f"{len(found)} rows for {name!r}", wanted="one for every class", try_="unpack meta_data.zip again"
            )
        rows.append(found)
    return Table(tuple(names), np.concatenate(rows).astype(np.float32), path.name)
