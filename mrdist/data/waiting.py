"""Waiting for what others make, for as long as there is somebody who makes it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from mrdist.data.claims import held
from mrdist.errors import DataError

_log = logging.getLogger(__name__)

POLL = 0.5
"""Seconds between two looks at what is still missing."""


class Wait:
    """Gives up when for some time nothing new has come and nobody holds a claim."""

    def __init__(self, folders: Iterable[Path] | Callable[[], Iterable[Path]], patience: float) -> None:
        """
        Args:
            folders: where those who are waited for write, and hold claims; they need not exist. Or what says so anew at every look.
            patience: seconds; 0 = never give up.
        """
        fixed = () if callable(folders) else tuple(folders)
        self._folders, self._patience = folders if callable(folders) else lambda: fixed, patience
        self._for, self._since = "", 0.0
        self._seen: list[int] = []

    def missed(self, what: str) -> None:
        """Note that `what` is not there yet; to be called now and then as long as that is so.

        Raises:
            DataError: nobody makes it.
        """
        now = time.monotonic()
        if what != self._for:
            self._for, self._since, self._seen = what, now, []
            _log.info("waiting for %s", what)
        if not self._patience or now - self._since < self._patience:
            return
        # Looking costs a listing of every folder, on every rank: only when patience has run out, and once more to compare.
        folders = tuple(self._folders())
        before, self._seen, self._since = self._seen, [_entries(folder) for folder in folders], now
        if self._seen == before and not any(held(folder) for folder in folders):
            raise DataError(
                what=what,
                got=f"nothing new for {self._patience:g} s, and nobody at work on it",
                wanted="somebody who prepares",
                try_="mrdist prepare with the same recipe, beside this; the run then goes on where it is",
            )

    def until(self, there: Callable[[], bool], what: str, look: Callable[[], None] = lambda: None) -> None:
        """Return when `there()` says yes; `look` is called now and then, to tell of progress.

        Raises:
            DataError: nobody makes it.
        """
        pause = POLL / 4
        while not there():
            self.missed(what)
            look()
            time.sleep(pause)
            pause = min(1.5 * pause, 20 * POLL)  # thousands of ranks may ask one file server


def _entries(folder: Path) -> int:
    try:
        return sum(1 for _ in folder.iterdir())
    except FileNotFoundError:
        return 0
