"""From another project's files to a store: in units, by any number of processes, each file at most once."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrdist.data.claims import Claims, Worklist
from mrdist.data.converted import SOURCE, Converted
from mrdist.data.faults import MachineFault, must_be_its_own, must_see
from mrdist.data.order import UNIT, place
from mrdist.data.parts import write_index, write_part
from mrdist.data.shards import Shards, publish, unit_name
from mrdist.data.sources.foreign import Entry, Source, file_below
from mrdist.errors import DataError, MrdistError
from mrdist.progress import Progress, silent
from mrdist.recipe import fingerprint
from mrdist.shapes import Triplet

_log = logging.getLogger(__name__)

_VERSION = 1  # of what is made of a file
_SKIPPED = "skipped"


class Plan(NamedTuple):
    """What is to be made: the shapes in units, and the length of a row."""

    units: Sequence[Sequence[Entry]]
    width: int
    points: int


def convert(source: Source, folder: Path, *, workers: int = 1, progress: Progress = silent) -> Converted:
    """Convert what `folder` does not hold yet.

    Several processes, on several machines, may do this at once: each takes units that nobody is at work on. A shape that cannot be
    converted is left out and named, with the reason, in `folder`/skipped.jsonl; one whose file was missing, and is there when this is
    called again, is converted then.

    Args:
        folder: belongs to this source alone.
        workers: processes that convert, this one among them.
        progress: told of "convert" (shapes).

    Raises:
        DataError: the lists cannot be read, no shape can, the folder belongs to another source, or this machine cannot read or write.
    """
    plan = begun(source, folder, progress)
    shards = Shards(folder)
    _forgive(source, shards, plan)
    if missing := shards.missing(range(len(plan.units))):
        shards.sweep()
        with ExitStack() as stack:
            for _ in range(min(workers, len(missing)) - 1):
                child = multiprocessing.get_context("spawn").Process(target=work, args=(source, folder), daemon=True)
                child.start()
                # One that dies leaves its unit to the others.
                stack.callback(child.join)
                stack.callback(child.terminate)
            work(source, folder, progress)
    _finish(shards, plan)
    return Converted.open(folder)


def begun(source: Source, folder: Path, progress: Progress = silent) -> Plan:
    """The plan of a folder, written down there by whoever is first.

    Raises:
        DataError: as `convert`.
    """
    found = source.entries()
    entries = {entry.id: entry for entry in found}
    if len(entries) < len(found):
        _log.warning("%d of %d shapes are listed more than once; the last of each counts", len(found) - len(entries), len(found))
    placed = sorted(entries.values(), key=lambda entry: place(entry.id))
    units = [placed[first : first + UNIT] for first in range(0, len(placed), UNIT)]
    listed = hashlib.sha256("\n".join(map(repr, placed)).encode("utf-8", "backslashreplace")).hexdigest()
    name = fingerprint(_VERSION, source.contract(), source.points, source.up, listed)
    shards = Shards(folder)
    if shards.has(SOURCE):
        notes = shards.unit(SOURCE).notes
        if notes.get("fingerprint") != name:
            raise DataError(what=folder, got="shapes of another source, or of other settings", wanted="its own folder", try_="another OUT")
        return Plan(units, notes["width"], source.points)
    # Another process may be writing the very unit that is missing here.
    if folder.is_dir() and any(not path.name.startswith((".", f"{SOURCE}-")) for path in folder.iterdir()):
        raise DataError(what=folder, got="other things in it", wanted="a new folder", try_="another OUT")
    table = source.table()
    rows: NDArray[np.float32] = np.zeros((0, 0), np.float32) if table is None else table.rows
    width = rows.shape[1] or _width(source, placed, progress)
    contract = source.contract() | ({} if table is None else {"classes said by": f"{source.teacher}, {table.file}"})
    notes = {
        "fingerprint": name,
        "contract": contract,
        "listed": len(placed),
        "classes": sorted({entry.category for entry in placed if entry.category}) if table is None else list(table.names),
        "teacher": source.teacher if width else "",
        "width": width,
    }
    shards.write(SOURCE, {"classes": rows}, notes)
    return Plan(units, width, source.points)


def work(source: Source, folder: Path, progress: Progress = silent) -> None:
    """Convert units that nobody else is at work on, until all are done.

    Raises:
        DataError: as `convert`.
    """
    plan = begun(source, folder)
    shards = Shards(folder)
    missing = shards.missing(range(len(plan.units)))
    total = sum(map(len, plan.units))
    with Claims(folder) as claims:
        left = Worklist(missing, shards, claims)
        while len(left) > 0:
            number = left.take()
            if number is None:
                time.sleep(0.2)
                continue
            try:
                _unit(source, plan, shards, number)
            except MachineFault as fault:
                raise fault.told(source.root) from None
            left.done(number)
            progress("convert", max(0, total - len(left) * UNIT), total)
    progress("convert", total, total)


def _unit(source: Source, plan: Plan, shards: Shards, number: int) -> None:
    kept: list[Triplet] = []
    splits: list[str] = []
    skipped = []
    must_see(source.root)
    for entry in plan.units[number]:
        try:
            kept.append(_fitting(source.triplet(entry), plan.width))
            splits.append(entry.split)
        except MrdistError as wrong:
            skipped.append({"id": entry.id, "file": entry.file, "reason": f"{wrong.what}: got {wrong.got}, wanted {wrong.wanted}"})
        except Exception as wrong:  # whatever a file makes of code that expected another one: it costs that file
            must_be_its_own(wrong)
            skipped.append({"id": entry.id, "file": entry.file, "reason": repr(wrong)[:200]})
    must_see(source.root)
    if skipped:  # first, so that no part is done whose losses nobody knows
        publish(_losses(shards, number), json.dumps(skipped).encode())
    else:
        _losses(shards, number).unlink(missing_ok=True)
    write_part(shards, number, kept, splits, width=plan.width, points=plan.points)


def _fitting(triplet: Triplet, width: int) -> Triplet:
    """The same, its rows of the store's length also where there are none.

    Raises:
        DataError: rows of another length.
    """
    held = {}
    for name in ("image", "text"):
        rows: NDArray[np.float16] = getattr(triplet, name)
        if len(rows) and rows.shape[1] != width:
            got = f"{name} features of {rows.shape[1]} numbers"
            raise DataError(what=triplet.id, got=got, wanted=f"{width}, as the others have", try_="features of one teacher")
        held[name] = rows if len(rows) else np.zeros((0, width), np.float16)
    return Triplet(triplet.id, triplet.category, triplet.points, held["image"], held["text"], triplet.captions)


def _width(source: Source, placed: Sequence[Entry], progress: Progress) -> int:
    """The length of a row, by the first shape that has one; 0 where nobody made any."""
    reason = "an empty list"
    for number, entry in enumerate(placed if source.teacher else ()):
        try:
            found = source.triplet(entry)
        except MachineFault as fault:
            raise fault.told(source.root) from None
        except MrdistError as wrong:
            reason = str(wrong)
            progress("look for a shape", number + 1, len(placed) + 1)
            continue
        if rows := [row for held in (found.image, found.text) for row in held[:1]]:
            return len(rows[0])
    if source.teacher:
        raise DataError(what=source.root, got=f"no shape with features; the last: {reason}", wanted="one", try_="fetch the files first")
    return 0


def _forgive(source: Source, shards: Shards, plan: Plan) -> None:
    """Give up units that lack a shape whose file has come since."""
    for number in range(len(plan.units)):
        for loss in _read(_losses(shards, number)):
            if "no such file" in loss["reason"] and _there(source, loss["file"]):
                shards.give_up(unit_name(number))
                break


def _there(source: Source, named: str) -> bool:
    try:
        file_below(source.root, named)
    except DataError:
        return False
    return True


def _finish(shards: Shards, plan: Plan) -> None:
    lost = [loss for number in range(len(plan.units)) for loss in _read(_losses(shards, number))]
    total = sum(map(len, plan.units))
    if len(lost) == total:
        got = f"no shape that can be read: {lost[0]['reason']}" if lost else "an empty list"
        raise DataError(what=shards.folder, got=got, wanted="at least one", try_="see why, remove this folder, convert again")
    if lost:
        _log.warning("%d of %d shapes cannot be converted, see %s", len(lost), total, shards.folder / f"{_SKIPPED}.jsonl")
    publish(shards.folder / f"{_SKIPPED}.jsonl", "".join(json.dumps(loss) + "\n" for loss in lost).encode())
    write_index(shards, len(plan.units), width=plan.width, points=plan.points)


def skipped(folder: Path) -> Iterator[dict[str, str]]:
    """The shapes that could not be converted: id, file and reason."""
    return (json.loads(line) for line in (folder / f"{_SKIPPED}.jsonl").read_text(encoding="utf-8").splitlines())


def _losses(shards: Shards, number: int) -> Path:
    return shards.folder / _SKIPPED / f"{unit_name(number)}.json"


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    held: list[dict[str, str]] = json.loads(path.read_bytes())
    return held
