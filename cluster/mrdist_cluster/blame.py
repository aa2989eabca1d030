"""Which rank of a run was the first to fail or to go quiet, from what the ranks wrote down before the end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from mrdist_cluster.standing import Stamp

HEAD = re.compile(
    r"^(?:silent for (?P<quiet>\d+) s: )?rank (?P<rank>\d+) of (?P<size>\d+), step (?P<step>\d+), in (?P<place>.*), "
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+)\nshapes at hand: (?P<shapes>.*)$",
    re.MULTILINE,
)
"""How `mrdist.training.why` begins a paragraph."""

RAISED = re.compile(r"[\w.]+(Error|Exception|Interrupt|Exit)\b")
"""How Python begins the last paragraph of a traceback: in the first column, unlike what led there."""

ECHO = re.compile(
    r"gloo|nccl|connection (was likely )?(closed|reset|refused)|broken pipe|Dist(Backend|Network|Store)Error|timed out waiting",
    re.IGNORECASE,
)
"""An error by which a rank says that another one has gone."""

LATE = timedelta(seconds=20)
"""So much older than the newest stamp is one whose rank has gone: they are written every five seconds."""


@dataclass(frozen=True)
class Witness:
    """A paragraph of why.txt."""

    rank: int
    size: int
    step: int
    place: str
    time: str
    shapes: str
    silent: float  # seconds at that place; 0 = it did not hang, it failed
    text: str  # stacks

    @property
    def when(self) -> datetime:
        """When it was written."""
        return datetime.strptime(self.time, "%Y-%m-%d %H:%M:%S %z")

    @property
    def complaint(self) -> list[str]:
        """The lines of the error that ended its traceback; none if it did not fail."""
        lines = [line for line in self.text.splitlines() if line.strip() and not line.startswith("try: ")]
        begins = [number for number, line in enumerate(lines) if RAISED.match(line)] or [-1]
        return [] if self.silent else lines[begins[-1] :]

    @property
    def remedy(self) -> str:
        return next((line.removeprefix("try: ") for line in reversed(self.text.splitlines()) if line.startswith("try: ")), "")

    @property
    def echo(self) -> bool:
        """Whether it failed because another rank had."""
        return any(ECHO.search(line) for line in self.complaint)


@dataclass(frozen=True)
class Verdict:
    """Who was first, and how one knows."""

    rank: int
    how: str  # one sentence
    step: int
    place: str
    shapes: str
    error: str = ""
    remedy: str = ""
    text: str = ""  # stacks


def witnesses(file: Path) -> list[Witness]:
    """The paragraphs of why.txt, in the order they were written; none if there is no such file."""
    if not file.is_file():
        return []
    text = file.read_text(errors="replace")
    heads = list(HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return [
        Witness(
            int(head["rank"]), int(head["size"]), int(head["step"]), head["place"], head["time"], head["shapes"],
            float(head["quiet"] or 0), text[head.end() : end].strip("\n"),
        )
        for head, end in zip(heads, ends, strict=True)
    ]  # fmt: skip


def first(heard: Sequence[Witness], stamps: Sequence[Stamp], *, alive: bool) -> Verdict | None:
    """The rank that was first; None if nothing is wrong, as far as ranks know.

    One that failed by itself, then one that went without a word, then one that stands where the others do not.

    Args:
        alive: whether the run is under way.
    """
    own = [one for one in heard if one.complaint and not one.echo]
    if own:
        return _said(own[0], "was the first to fail", heard)
    if mute := _mute(heard, stamps):
        how = "ended without a word, before it had stamped where it was"
        return Verdict(mute[0], how, heard[0].step, "an unknown place", "unknown")
    if gone := _gone(stamps, alive=alive):
        one = gone[0]
        also = f"; so did rank {', '.join(str(other.rank) for other in gone[1:])}" if len(gone) > 1 else ""
        how = f"ended without a word{also}; its last sign of life is of {one.time:%H:%M:%S}"
        return Verdict(one.rank, how, one.step, one.place, ", ".join(one.shapes) or "none")
    now = {stamp.rank: stamp.step for stamp in stamps}
    silent = [one for one in heard if one.silent and now.get(one.rank, one.step) <= one.step]  # the others went on after all
    if silent:
        guilty = min(silent, key=lambda one: waited_for(one.place, one.step))
        return _said(guilty, f"was the first to go quiet, for {guilty.silent:.0f} s", heard)
    failed = [one for one in heard if not one.silent]
    return _said(failed[0], "was the first to fail", heard) if failed else None


def waited_for(place: str, step: int) -> tuple[int, int]:
    """How likely others wait for a rank that is there; smaller is likelier.

    Those in a collective wait for one that is in none, those at a later step for one that is behind. Who waits for a batch waits for
    no rank; who is between places may, on a GPU, wait for what it has queued.
    """
    return {"wait": 0, "between places": 2, "talk": 3}.get(place.rpartition(" > ")[2], 1), step


def _mute(heard: Sequence[Witness], stamps: Sequence[Stamp]) -> list[int]:
    """Ranks that others lost, and that left nothing at all."""
    if not any(one.echo for one in heard):
        return []
    return sorted(set(range(heard[0].size)) - {one.rank for one in heard} - {stamp.rank for stamp in stamps})


def _gone(stamps: Sequence[Stamp], *, alive: bool) -> list[Stamp]:
    """Stamps of ranks that have ended and never said so, the oldest first."""
    if not stamps:
        return []
    open_ = sorted((stamp for stamp in stamps if not stamp.over), key=lambda stamp: (stamp.time, stamp.rank))
    if not alive or any(stamp.over for stamp in stamps):
        return open_
    newest = max(stamp.time for stamp in stamps)
    return [stamp for stamp in open_ if newest - stamp.time > LATE]


def _said(one: Witness, how: str, heard: Sequence[Witness]) -> Verdict:
    others = len({other.rank for other in heard} - {one.rank})
    told = f"; {others} other{'s' * (others > 1)} wrote after it" if others else ""
    return Verdict(one.rank, how + told, one.step, one.place, one.shapes, (one.complaint or [""])[0], one.remedy, one.text)
