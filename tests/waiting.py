"""Waiting in tests: for something to be so, never for time to pass."""

from __future__ import annotations

import time
from collections.abc import Callable

LATE = 600.0
"""Seconds; far beyond what anything that is waited for takes, on a busy machine too: only a mistake is as late as that."""


def until(so: Callable[[], object], what: str, *, within: float = LATE) -> None:
    """Return when it is so; fails, and says what was waited for, after `within` seconds."""
    deadline = time.monotonic() + within
    while not so():
        assert time.monotonic() < deadline, f"waited {within:g} s for {what}"
        time.sleep(0.02)
