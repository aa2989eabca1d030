"""A thread per rank that notes where the rank is, and writes down where it hangs."""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import datetime

from mrdist.files import put
from mrdist.training import why
from mrdist.training.run import Run
from mrdist.training.watchers import Watcher

logger = logging.getLogger(__name__)


class Watchdog(Watcher):
    """Writes ranks/NNNN.stamp every few seconds, and the stacks of all threads to why.txt after a long silence.

    It ends nothing: a collective that waits for a dead rank gives up by its own deadline (`Watch.deadline`), and the stacks are
    on disk by then. The rank whose place differs from the others' is the one they wait for.
    """

    def __init__(self, run: Run, *, silence: float, every: float = 5.0) -> None:
        """
        Args:
            silence: seconds at one place that are too long; 0 = as long as it likes.
            every: seconds between stamps.
        """
        self._run, self._silence, self._every = run, silence, min(every, silence / 4 or every)
        self._stamp = run.folder / "ranks" / f"{run.ranks.rank:04d}.stamp"
        self._reported = 0.0  # the clock's `since` that was written about
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join(5)
        self._note("over")

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            try:
                self._note(" > ".join(self._run.ranks.clock.places) or "between places")
                self._listen()
            except OSError as wrong:  # a full or vanished disk must not kill the only witness
                logger.warning("watchdog: %s", wrong)

    def _note(self, place: str) -> None:
        run = self._run
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        quiet = round(time.monotonic() - run.ranks.clock.since, 1)
        stamp = {"rank": run.ranks.rank, "step": run.step, "place": place, "for": quiet, "time": now, "ids": run.ids[:8]}
        put(self._stamp, f"{json.dumps(stamp)}\n".encode(), lasting=False)

    def _listen(self) -> None:
        since = self._run.ranks.clock.since
        quiet = time.monotonic() - since
        if not self._silence or quiet < self._silence or since == self._reported:
            return
        self._reported = since
        run = self._run
        head = why.where(run.ranks, run.step, run.ids)
        remedy = f"try: look for the rank that is in no collective, the others wait for it; mrdist train {run.folder} goes on"
        why.append(run.folder / "why.txt", f"silent for {quiet:.0f} s: {head}{why.stacks()}{remedy}\n")
        logger.warning("silent for %.0f s; stacks are in why.txt", quiet)
