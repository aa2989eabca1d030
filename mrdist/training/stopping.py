"""Who may ask a run to stop: a signal, or a file in its folder."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Pre-emption, "time is nearly up" (sbatch --signal=USR1), and Ctrl-C; a second Ctrl-C interrupts at once."""


STOP, REGROUP = "stop", "regroup"
"""The files: from anybody; and from a driver that starts the ranks again at once, because there is room for more of them by now."""


class Stop:
    """Whether this process has been asked to stop after the step it is at.

    One rank may be asked alone; ranks agree once per step (`Run.reading`), so that all stop at the same one.
    """

    def __init__(self, *files: Path, every: float = 1.0) -> None:
        """Listen to SIGNALS, and look every `every` seconds for any of `files`."""
        self._files, self._every = files, every
        self._looked = 0.0
        self._asked = False
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}

    @property
    def asked(self) -> bool:
        """Whether somebody asked."""
        if not self._asked and time.monotonic() - self._looked >= self._every:
            self._looked = time.monotonic()
            if any(file.exists() for file in self._files):  # never assigned from it: a signal may be heard while it looks
                self._asked = True
        return self._asked

    def close(self) -> None:
        """Listen no more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._asked:
            raise KeyboardInterrupt
        self._asked = True
