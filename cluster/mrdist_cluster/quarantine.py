"""Which shape kills the renderer that draws it: found by a note on the disk, kept out by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mrdist.data.crew import Crew
from mrdist.data.renders import Drawn
from mrdist.data.shards import publish, unit_name
from mrdist.prepare.units import crew_of, draw_unit
from mrdist.prepare.work import Round
from mrdist.shapes import Shape


@dataclass(frozen=True)
class Trial:
    """What is known of a unit while somebody draws it; who comes after one that died reads it."""

    pipeline: str  # its name: how often others were stopped at this unit says nothing about its shapes
    begun: int = 0  # times
    at: str = ""  # the shape at work, alone
    refused: dict[str, str] = field(default_factory=dict)  # shapes that killed, each with the reason that will stand beside it


def draw_in_spite(round: Round, number: int, shapes: Sequence[Shape], crew: Crew, *, pipeline: str, retries: int) -> Drawn:
    """`draw_unit`, where a shape may kill this very process: not its sandbox, which is nothing new, but all of us.

    A unit that is begun for the `retries` + 2nd time is drawn shape by shape, the one at work noted before; whoever begins it again
    after that leaves out the shape that was at work. An end that has another cause, a node that lost its power, may cost an innocent
    shape only if it comes in just these seconds; skipped.jsonl says so.

    Args:
        pipeline: a name of its own for whoever hands out the units, each to one process at a time.

    Raises:
        DataError: the disk is full.
        MachineFault: this machine cannot read the meshes; the unit is for another one, or for later.
    """
    path = round.renders / f"{unit_name(number)}.trial"
    trial = _read(path, pipeline)
    if trial.at:
        reason = f"killed its renderer: that died {trial.begun} times at this unit, the last time alone with this shape"
        trial = replace(trial, at="", refused={**trial.refused, trial.at: reason})
    trial = replace(trial, begun=trial.begun + 1)
    _write(path, trial)
    try:
        if trial.begun <= 1 + retries:
            return draw_unit(round, number, shapes, crew, trial.refused)
        with crew_of(round, 1) as alone:
            return draw_unit(round, number, shapes, alone, trial.refused, begun=lambda shape: _write(path, replace(trial, at=shape.id)))
    finally:
        path.unlink(missing_ok=True)  # an error is no death: it says itself what is wrong


def _read(path: Path, pipeline: str) -> Trial:
    try:
        trial = Trial(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return Trial(pipeline)
    return trial if trial.pipeline == pipeline else Trial(pipeline)


def _write(path: Path, trial: Trial) -> None:
    publish(path, json.dumps(asdict(trial)).encode())
