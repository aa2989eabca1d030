"""What goes from pool to pool: one row of Arrow per unit of shapes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from safetensors.numpy import load, save

from mrdist.data.renders import Drawn
from mrdist.shapes import Shape

DONE, THERE, ELSEWHERE, DAMAGED = "done", "there", "elsewhere", "damaged"
"""What came of a unit: made now; was there before; is in another process's hands; what was there cannot be read, and was given up."""


class Report(NamedTuple):
    """What became of one unit in the pools; seconds are of `time.time`."""

    unit: int
    state: str = THERE
    shapes: int = 0  # that were drawn or embedded now
    views: int = 0  # drawn now
    skipped: int = 0  # shapes that could not be drawn
    embeddings: int = 0  # of views and captions
    drew: float = 0.0  # seconds of work
    taught: float = 0.0
    made: float = 0.0  # when it was drawn
    taken: float = 0.0  # when a teacher took it
    renderer: str = ""
    teacher: str = ""

    def table(self, drawn: Drawn | None = None) -> pa.Table:
        """One row; with what was drawn, if somebody wants that next."""
        row = pa.Table.from_pylist([self._asdict()])
        notes, arrays = ("", b"") if drawn is None else (json.dumps(drawn.notes), save(drawn.arrays))
        return row.append_column("notes", pa.array([notes])).append_column("arrays", pa.array([arrays], pa.large_binary()))


def asked(number: int, shapes: Sequence[Shape]) -> dict[str, Any]:
    """The row with which a unit begins."""
    return {"unit": number, "shapes": json.dumps([{**asdict(shape), "mesh": str(shape.mesh)} for shape in shapes])}


def unit_of(row: pa.Table) -> tuple[int, list[Shape]]:
    """The unit that `asked` asks for."""
    held = json.loads(row["shapes"][0].as_py())
    return row["unit"][0].as_py(), [Shape(**{**one, "mesh": Path(one["mesh"]), "captions": tuple(one["captions"])}) for one in held]


def report_of(row: pa.Table) -> Report:
    """What came of a unit so far; of one that only begins, that it is there."""
    if "state" not in row.column_names:
        return Report(row["unit"][0].as_py())
    return Report(**{name: row[name][0].as_py() for name in Report._fields})


def drawn_of(row: pa.Table) -> Drawn | None:
    """What was drawn of a unit, if it came along."""
    if "arrays" not in row.column_names or not row["notes"][0].as_py():
        return None
    return Drawn(row["unit"][0].as_py(), load(row["arrays"][0].as_py()), json.loads(row["notes"][0].as_py()))
