"""How far long work is: a live line on a terminal, one plain line per interval in a file; time left in both."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

from mrdist.progress import duration


class Screen:
    """A `Progress` that prints. One stage at a time; a finished stage leaves one line behind."""

    def __init__(self, *, quiet: bool = False, out: TextIO | None = None, interval: float = 10.0) -> None:
        self.out = out or sys.stderr
        self.quiet = quiet
        self.live = self.out.isatty() and "NO_COLOR" not in os.environ
        self.interval = 0.1 if self.live else interval
        self.stage = ""
        self.began = self.said = 0.0
        self.first = 0
        self.finished = ("", 0)

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total:
            self.finished = ("", 0)
        elif self.finished == (stage, total):
            return  # said already
        else:
            self.finished = (stage, total)
        if stage != self.stage:
            self.stage, self.began, self.first, self.said = stage, now, done, now if done < total else 0.0
        if self.quiet or (now - self.said < self.interval and done < total):
            return
        self.said = now
        line = f"{stage:<24} {done}/{total}  {self._left(now, done, total)}"
        if done >= total:
            self.stage = ""
        if self.live:
            self.out.write(f"\r\033[K{line}" + ("\n" if done >= total else ""))
        else:
            self.out.write(line + "\n")
        self.out.flush()

    def _left(self, now: float, done: int, total: int) -> str:
        spent = now - self.began
        fresh = done - self.first
        if done >= total:
            return f"done in {duration(spent)}" if spent >= 1 else "done"
        return f"left {duration(spent / fresh * (total - done))}" if fresh > 0 else ""
