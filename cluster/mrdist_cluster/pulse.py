"""Whether a run that goes its way still moves: how long ago it took a step, and which rank stands where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mrdist_cluster.blame import waited_for
from mrdist_cluster.standing import FRESH, RECENT, Stamp

LEAST, TIMES = 60.0, 5
"""Seconds without a step that are never strange; and how many times as long as the steps of late."""

FIRST = 300.0
"""Seconds that the first step after a start may take: it compiles, allocates and fills queues."""

LONG = 1800.0
"""Seconds that work of LENGTHY may take."""

LENGTHY = ("evaluate", "save", "pictures")
"""Places where ranks are for as long as the data are large."""


@dataclass(frozen=True)
class Pulse:
    """How a run moves."""

    quiet: float  # seconds since the last step; if there is none, since the ranks began
    begun: bool  # whether there is one
    strange: bool  # that is longer than is usual there
    where: str  # "rank 2 in wait, 3 others in talk"
    suspect: Stamp | None  # a rank for which others wait; None: none stands out


def pulse(steps: Sequence[Mapping[str, Any]], begun: datetime | None, stamps: Sequence[Stamp], now: datetime) -> Pulse | None:
    """How a run moves; None if no rank says where it is.

    Times are compared within one rank's clock, the first one's, who also writes down the steps: the clocks of nodes differ.
    Ours is asked only whether all of them have been silent for long.

    Args:
        steps: the last lines of metrics.jsonl.
        begun: when the ranks came up, by the first one's clock.
        stamps: those that were written since.
    """
    there = [stamp for stamp in stamps if not stamp.over]
    if not there:
        return None
    lead = min(there, key=lambda stamp: stamp.rank)
    taken = [(datetime.fromisoformat(step["time"]), float(step["seconds"])) for step in steps[-RECENT:] if "time" in step]
    taken = [(time, seconds) for time, seconds in taken if begun is None or time >= begun]
    since = taken[-1][0] if taken else begun
    silence = (now - max(stamp.time for stamp in there)).total_seconds()
    quiet = lead.quiet if since is None else (lead.time - since).total_seconds()
    quiet = max(0.0, quiet) + (silence if silence > FRESH else 0.0)

    first = min(there, key=_likely)
    paces = sorted(seconds for _, seconds in taken)
    usual = max(LEAST, TIMES * paces[len(paces) // 2]) if taken else FIRST
    if first.place.partition(" > ")[0] in LENGTHY:
        usual = max(usual, LONG)
    stands_out = any(_likely(stamp) != _likely(first) for stamp in there)
    return Pulse(quiet, bool(taken), quiet > usual, _where(there), first if stands_out else None)


def _likely(stamp: Stamp) -> tuple[int, int]:
    return waited_for(stamp.place, stamp.step)


def _where(there: Sequence[Stamp]) -> str:
    """Places with the ranks that are there, the fullest last."""
    at: dict[str, list[int]] = {}
    for stamp in sorted(there, key=lambda stamp: stamp.rank):
        at.setdefault(stamp.place, []).append(stamp.rank)
    *few, (place, most) = sorted(at.items(), key=lambda one: (len(one[1]), one[1]))
    said = [f"{_named(ranks)} in {where}" for where, ranks in few]
    rest = f"{len(most)} other{'s' * (len(most) > 1)}" if few else _named(most) if len(most) == 1 else f"all {len(most)} ranks"
    return ", ".join([*said, f"{rest} in {place}"])


def _named(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:4])) + (f" and {len(ranks) - 4} more" if len(ranks) > 4 else "")
    return f"rank{'s' * (len(ranks) > 1)} {shown}"
