"""What was drawn of a catalogue: points and views of every shape, in units."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mrdist.data.catalog import Catalog
from mrdist.data.faults import must_be_theirs
from mrdist.data.render import RENDERER_VERSION
from mrdist.data.sandbox import Outcome
from mrdist.data.shards import INDEX, Arrays, Shards, join, publish, split, unit_name
from mrdist.errors import DataError
from mrdist.recipe import Limits, Views, fingerprint
from mrdist.shapes import Bytes, Shape

_log = logging.getLogger(__name__)

_VERSION = 2  # of what a unit holds, and of how points and pictures are stored


def renders_key(catalog: Catalog, *, views: Views, limits: Limits, points: int) -> str:
    """A name for everything that decides what is drawn: other cameras, limits, points, code or shapes, another name."""
    return fingerprint(catalog.fingerprint, views, limits, points, RENDERER_VERSION, _VERSION)


@dataclass(frozen=True)
class Rendered:
    """One shape as it was drawn."""

    id: str
    category: str
    split: str
    captions: tuple[str, ...]
    xyz: NDArray[np.float16]  # [N, 3], z up, unit sphere
    rgb: Bytes  # [N, 3], sRGB
    views: tuple[bytes, ...]  # JPEG files, in the order of the ring


class Drawn(NamedTuple):
    """One unit as it lies on the disk: see `write_unit`. Nothing but arrays and JSON, so that it may go to another process."""

    number: int
    arrays: Arrays
    notes: dict[str, Any]

    def shapes(self) -> list[Rendered]:
        """The shapes that could be drawn."""
        pictures = split(self.arrays["jpeg"], self.arrays["jpeg_at"])
        begins = self.arrays["views_at"]
        return [
            Rendered(
                **{**about, "captions": tuple(about["captions"])},
                xyz=self.arrays["xyz"][k],
                rgb=self.arrays["rgb"][k],
                views=tuple(pictures[begins[k] : begins[k + 1]]),
            )
            for k, about in enumerate(self.notes["shapes"])
        ]


class Renders:
    """What was drawn of a catalogue, in units; everything, once their index is there."""

    def __init__(self, folder: Path, units: int) -> None:
        self.folder, self.units = folder, units
        self._shards = Shards(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """What lies in `folder`.

        Raises:
            DataError: it is not complete.
        """
        return cls(folder, int(Shards(folder).unit(INDEX).notes["units"]))

    def __len__(self) -> int:
        return int(self._shards.unit(INDEX).notes["shapes"])

    def __iter__(self) -> Iterator[Rendered]:
        for number in range(self.units):
            yield from self.unit(number).shapes()

    def unit(self, number: int) -> Drawn:
        """One unit.

        Raises:
            DataError: it is missing or damaged.
        """
        arrays, marker = self._shards.read(unit_name(number))
        return Drawn(number, arrays, marker.notes)

    @property
    def skipped(self) -> list[dict[str, str]]:
        """The shapes that could not be drawn: id, mesh and reason."""
        lines = (self.folder / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def verify(self) -> Iterator[DataError]:
        """Read everything and compare hashes: yields one error per damaged unit."""
        return self._shards.verify()


def write_unit(shards: Shards, number: int, shapes: Sequence[Shape], outcomes: Sequence[Outcome], *, points: int, root: Path) -> Drawn:
    """Write what came of some shapes as one unit, and return it: whoever wants it next need not read it.

    Arrays: `xyz` and `rgb` [K, points, 3] of the K shapes that could be drawn; view j of shape k is
    `jpeg[jpeg_at[i]:jpeg_at[i + 1]]` with i = `views_at[k]` + j. The marker lists what is known of those shapes, and the others
    with their reasons.

    Raises:
        MachineFault: it was this machine that failed, not the shapes; nothing is written.
        DataError: the disk is full.
    """
    must_be_theirs(shapes, outcomes, root)
    drawn = [(shape, outcome.arrays) for shape, outcome in zip(shapes, outcomes, strict=True) if outcome.ok]
    pictures = [split(arrays["jpeg"], arrays["jpeg_at"]) for _, arrays in drawn]
    jpeg, jpeg_at = join(picture for views in pictures for picture in views)
    arrays: Arrays = {
        "xyz": np.stack([arrays["xyz"] for _, arrays in drawn]) if drawn else np.zeros((0, points, 3), np.float16),
        "rgb": np.stack([arrays["rgb"] for _, arrays in drawn]) if drawn else np.zeros((0, points, 3), np.uint8),
        "jpeg": jpeg,
        "jpeg_at": jpeg_at,
        "views_at": np.concatenate([[0], np.cumsum([len(views) for views in pictures])]).astype(np.int64),
    }
    skipped = [
        {"id": shape.id, "mesh": os.path.relpath(shape.mesh, root), "reason": outcome.reason}
        for shape, outcome in zip(shapes, outcomes, strict=True)
        if not outcome.ok
    ]
    about = [{"id": s.id, "category": s.category, "split": s.split, "captions": list(s.captions)} for s, _ in drawn]
    notes = {"shapes": about, "skipped": skipped}
    shards.write(unit_name(number), arrays, notes)
    return Drawn(number, arrays, notes)


def write_index(shards: Shards, units: Sequence[Sequence[Shape]]) -> None:
    """List what was skipped, and say that everything is there.

    Raises:
        DataError: a unit is missing, damaged or of other shapes, or nothing could be drawn.
    """
    drawn: list[int] = []
    skipped: list[dict[str, str]] = []
    for number, shapes in enumerate(units):
        notes = shards.unit(unit_name(number)).notes
        if {about["id"] for about in (*notes["shapes"], *notes["skipped"])} != {shape.id for shape in shapes}:
            raise DataError(
                what=f"unit {number} of {shards.folder}", got="other shapes", wanted=f"{shapes[0].id} ...", try_="one folder per catalogue"
            )
        drawn.append(len(notes["shapes"]))
        skipped += notes["skipped"]
    if not any(drawn):
        first = f": {skipped[0]['id']}: {skipped[0]['reason']}" if skipped else ""
        raise DataError(
            what=str(shards.folder),
            got=f"no shape that can be drawn{first}",
            wanted="at least one",
            try_="see why, remove this folder, try again",
        )
    if skipped:
        _log.warning("%d of %d shapes cannot be drawn, see %s", len(skipped), sum(map(len, units)), shards.folder / "skipped.jsonl")
    lines = (json.dumps(one) + "\n" for one in skipped)
    publish(shards.folder / "skipped.jsonl", "".join(lines).encode())
    shards.write(INDEX, {"drawn": np.array(drawn, np.int64)}, {"units": len(units), "shapes": sum(drawn), "skipped": len(skipped)})
