"""why.txt: where a run ended badly, and what to try."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from mrdist.errors import MrdistError
from mrdist.ranks import Ranks


def where(ranks: Ranks, step: int, ids: Sequence[str]) -> str:
    """One paragraph: rank, step, place, time, and the shapes of the batch at hand."""
    place = " > ".join(ranks.clock.places) or "between places"
    shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    head = f"rank {ranks.rank} of {ranks.size}, step {step}, in {place}, {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}"
    return f"{head}\nshapes at hand: {shown or 'none'}\n"


def append(file: Path, text: str) -> None:
    """Add a paragraph. Ranks write to one file; the first paragraph is that of the rank that failed first."""
    with file.open("a") as out:
        out.write(text + "\n")


def failure(error: BaseException, ranks: Ranks, step: int, ids: Sequence[str]) -> str:
    """What to write about an error that ends the run."""
    remedy = "report this, with the lines above"
    if isinstance(error, MrdistError):
        remedy = error.try_
    if isinstance(error, KeyboardInterrupt):
        remedy = "resume: somebody interrupted it"
    return f"{where(ranks, step, ids)}{''.join(traceback.format_exception(error))}try: {remedy}\n"


def stacks() -> str:
    """Where every thread of this process is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for number, frame in sys._current_frames().items():
        parts.append(f"thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}")
    return "\n".join(parts)
