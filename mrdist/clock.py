"""Where a rank is, since when, and where its seconds went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

TALK = "talk"
"""The place of every collective; its seconds are what ranks cost."""

WAIT = "wait"
"""The place of waiting for the next batch."""


class Clock:
    """Marks that the work leaves behind: `with clock.at("wait"): ...`.

    Another thread may read `places` and `since` at any time. On a GPU work is queued, not done, when a call returns;
    there, seconds of `talk` are measured between two events of the device's queue, without waiting for it.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.places: list[str] = []
        self.since = time.monotonic()  # when the rank came to where it is now
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._begin = time.perf_counter()

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Being at `place`; places nest, and seconds count for every place one is in."""
        self.places.append(place)
        self.since = time.monotonic()
        queued = place == TALK and self.device.type == "cuda"
        before = self._event() if queued else None
        begin = time.perf_counter()
        try:
            yield
        finally:
            if before is not None:
                self._events.append((place, before, self._event()))
            else:
                self._seconds[place] = self._seconds.get(place, 0.0) + time.perf_counter() - begin
            self.places.pop()
            self.since = time.monotonic()

    def spent(self) -> dict[str, float]:
        """Seconds at each place since the last call of `spent`, and `"all"` of them."""
        for place, before, after in self._events:
            after.synchronize()
            self._seconds[place] = self._seconds.get(place, 0.0) + before.elapsed_time(after) / 1000
        now = time.perf_counter()
        out = {**self._seconds, "all": now - self._begin}
        self._seconds, self._events, self._begin = {}, [], now
        return out

    def _event(self) -> torch.cuda.Event:
        event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event
