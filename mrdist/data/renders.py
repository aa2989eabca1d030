"""What was drawn of a catalogue: points and views of every shape, in units that a re-run completes rather than repeats."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mrdist.data.catalog import Catalog
from mrdist.data.claims import Claims, Worklist
from mrdist.data.drawing import ShapeRenderer
from mrdist.data.render import RENDERER_VERSION, cameras
from mrdist.data.sandbox import Outcome
from mrdist.data.shards import INDEX, Arrays, Shards, join, publish, split, unit_name
from mrdist.errors import DataError
from mrdist.progress import Progress, silent
from mrdist.recipe import Limits, Views, fingerprint
from mrdist.shapes import Bytes, Shape

_log = logging.getLogger(__name__)

UNIT = 32
"""Shapes per unit: what a killed process may have to draw again; a few megabytes."""

_VERSION = 1  # of what a unit holds, and of how points and pictures are stored


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


class Renders:
    """Everything that was drawn of a catalogue, in the order of ids."""

    def __init__(self, shards: Shards, about: dict[str, Any]) -> None:
        self.folder = shards.folder
        self.units: int = about["units"]
        self._shards, self._shapes = shards, int(about["shapes"])

    @classmethod
    def open(cls, folder: Path) -> Self:
        """What lies in `folder`.

        Raises:
            DataError: it is not complete.
        """
        shards = Shards(folder)
        return cls(shards, shards.unit(INDEX).notes)

    def __len__(self) -> int:
        return self._shapes

    def __iter__(self) -> Iterator[Rendered]:
        for number in range(self.units):
            yield from self.unit(number)

    def unit(self, number: int) -> list[Rendered]:
        """The shapes of one unit that could be drawn.

        Raises:
            DataError: the unit is missing or damaged.
        """
        arrays, marker = self._shards.read(unit_name(number))
        pictures = split(arrays["jpeg"], arrays["jpeg_at"])
        begins = arrays["views_at"]
        return [
            Rendered(
                **{**about, "captions": tuple(about["captions"])},
                xyz=arrays["xyz"][k],
                rgb=arrays["rgb"][k],
                views=tuple(pictures[begins[k] : begins[k + 1]]),
            )
            for k, about in enumerate(marker.notes["shapes"])
        ]

    @property
    def skipped(self) -> list[dict[str, str]]:
        """The shapes that could not be drawn: id, mesh and reason."""
        lines = (self.folder / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def verify(self) -> Iterator[DataError]:
        """Read everything and compare hashes: yields one error per damaged unit."""
        return self._shards.verify()


def render_catalog(
    catalog: Catalog, *, views: Views, limits: Limits, points: int, folder: Path, workers: int, progress: Progress = silent
) -> Renders:
    """Draw every shape of a catalogue that `folder` does not hold yet.

    Several processes may do this at once: each takes units that nobody is at work on, and all return when everything is drawn.
    A shape that cannot be drawn is left out and named, with the reason, in `folder`/skipped.jsonl; to have it tried again, remove
    the marker (`00012.json`) of its unit.

    Args:
        folder: belongs to these arguments alone; name it by `renders_key`.
        workers: shapes drawn at the same time, each in a process of its own.
        progress: told of "render" after every shape.

    Raises:
        DataError: the disk is full, the folder belongs to another catalogue, or nothing can be drawn on this machine.
        RecipeError: views that cannot be made.
    """
    cameras(views)  # complains once, rather than of every shape
    shards = Shards(folder)
    shapes = sorted(catalog.shapes, key=lambda shape: shape.id)  # a manifest in another order has the same fingerprint
    units = [shapes[first : first + UNIT] for first in range(0, len(shapes), UNIT)]
    missing = shards.missing(range(len(units)))
    if not missing and shards.has(INDEX):
        return Renders.open(folder)
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        shards.sweep()
        formats = {shape.mesh.suffix for shape in shapes}
        count = max(1, min(workers, sum(len(units[number]) for number in missing)))
        with ExitStack() as stack:
            claims = stack.enter_context(Claims(folder))

            def hired(_: int) -> ShapeRenderer:
                one = ShapeRenderer(catalog.root, views=views, limits=limits, points=points, formats=formats)
                stack.callback(one.close)
                return one

            crew = [hired(0)]  # alone, because it may have to compile for those that follow
            with ThreadPoolExecutor(count) as pool:
                crew += pool.map(hired, range(1, count))

            def write(number: int, outcomes: Sequence[Outcome]) -> None:
                write_unit(shards, number, units[number], outcomes, points=points, root=catalog.root)

            _draw(units, missing, shards, claims, crew, write, progress)
    write_index(shards, units)
    return Renders.open(folder)


def _draw(
    units: Sequence[Sequence[Shape]],
    missing: Sequence[int],
    shards: Shards,
    claims: Claims,
    crew: Sequence[ShapeRenderer],
    write: Callable[[int, Sequence[Outcome]], None],
    progress: Progress,
) -> None:
    """Have the crew draw the missing units, in order, a few units ahead of the one that is written next."""
    total = sum(map(len, units))
    done = total - sum(len(units[number]) for number in missing)
    idle: SimpleQueue[ShapeRenderer] = SimpleQueue()
    for one in crew:
        idle.put(one)

    def draw(shape: Shape) -> Outcome:
        one = idle.get()
        try:
            return one.draw(shape)
        finally:
            idle.put(one)

    work = Worklist(missing, shards, claims)
    begun: deque[tuple[int, list[Future[Outcome]]]] = deque()
    ahead = 2 + len(crew) // UNIT  # so that nobody is idle while a unit's last shape is drawn
    pool = ThreadPoolExecutor(len(crew), thread_name_prefix="render")
    try:
        while len(work) > 0 or begun:
            while len(begun) < ahead and (mine := work.take()) is not None:
                begun.append((mine, [pool.submit(draw, shape) for shape in units[mine]]))
            if not begun:
                time.sleep(0.2)
                continue
            number, futures = begun.popleft()
            outcomes = []
            for future in futures:
                outcomes.append(future.result())
                done += 1
                progress("render", done, total)
            write(number, outcomes)
            work.done(number)
        progress("render", total, total)  # with what other processes did meanwhile
    finally:
        # Not waiting: after an error or an interrupt the sandboxes are closed next, and the threads end with them.
        pool.shutdown(wait=False, cancel_futures=True)


def write_unit(shards: Shards, number: int, shapes: Sequence[Shape], outcomes: Sequence[Outcome], *, points: int, root: Path) -> None:
    """Write what came of some shapes as one unit.

    Arrays: `xyz` and `rgb` [K, points, 3] of the K shapes that could be drawn; view j of shape k is
    `jpeg[jpeg_at[i]:jpeg_at[i + 1]]` with i = `views_at[k]` + j. The marker lists what is known of those shapes, and the others
    with their reasons.
    """
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
    about = [{"id": s.id, "category": s.category, "split": s.split, "captions": s.captions} for s, _ in drawn]
    shards.write(unit_name(number), arrays, {"shapes": about, "skipped": skipped})


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
