"""How many ranks start, and how often they, or whatever else may die, are started again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from mrdist.errors import MrdistError, RanksError

T = TypeVar("T")

logger = logging.getLogger(__name__)


def ranks_for(batch: int, room: int) -> int:
    """The most ranks, up to `room`, that share a global batch evenly; 0 if there is no room."""
    return max((ranks for ranks in range(1, min(batch, room) + 1) if batch % ranks == 0), default=0)


def insist(work: Callable[[], None], what: str, *, got: Callable[[], int], most: int, unless: Callable[[], bool]) -> None:
    """Do `work()`; begin it again whenever something kills it.

    Args:
        what: the work by name.
        got: how far it is: a number that grows.
        most: how often it may be begun again without having got further.
        unless: once true, its end is its end.

    Raises:
        MrdistError: what `work` says of itself; trying again would not help.
        RanksError: it died more than `most` times in a row at the same place.
    """
    fruitless = 0
    while True:
        before = got()
        try:
            return work()
        except MrdistError:
            raise
        except Exception as fell:
            reason = (str(fell).strip().splitlines() or [type(fell).__name__])[-1]
            if unless():
                logger.warning("%s fell at %d while it was to end: %s", what, got(), reason)
                return None
            fruitless = 0 if got() > before else fruitless + 1
            if fruitless > most:
                raise RanksError(
                    what=what,
                    got=f"{fruitless} ends in a row without getting past {got()}; the last one: {reason}",
                    wanted="to get further",
                    try_="read why.txt and ranks/ of the run folder, then the same command again",
                ) from fell
            logger.warning("%s fell at %d: %s; begun again", what, got(), reason)


class Beside(Generic[T]):
    """Work in a thread that ends with the process."""

    def __init__(self, work: Callable[[], T], name: str) -> None:
        self._work = work
        self._result: T
        self._wrong: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether it has ended, well or badly."""
        return not self._thread.is_alive()

    def wait(self, within: float) -> None:
        """Return when it is over, or after so many seconds."""
        self._thread.join(within)

    def result(self) -> T:
        """What the work returned, when it is over; raises what it raised."""
        self._thread.join()
        if self._wrong is not None:
            raise self._wrong
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as wrong:  # result() raises it
            self._wrong = wrong
