"""Who may ask a run to stop: a signal, or a file."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Pre-emption, "time is nearly up" (sbatch --signal=USR1), and Ctrl-C; a second Ctrl-C interrupts at once."""


class Stop:
    """Whether this process has been asked to stop after the step it is at.

    One rank may be asked alone; ranks agree once per step (`Run.reading`), so that all stop at the same one.
    """

    def __init__(self, file: Path | None, *, every: float = 1.0) -> None:
        """Listen to SIGNALS, and look every `every` seconds for `file`."""
        self._file, self._every = file, every
        self._looked = 0.0
        self._asked = False
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}

    @property
    def asked(self) -> bool:
        """Whether somebody asked."""
        if self._file is not None and not self._asked and time.monotonic() - self._looked >= self._every:
            self._looked = time.monotonic()
            if self._file.exists():  # never assigned from it: a signal may be heard while it looks
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
