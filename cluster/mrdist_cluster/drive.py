"""The driver: ranks and pipeline side by side, begun again when they die, until the run is done or asked to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mrdist.cli.main import DONE, STOPPED
from mrdist.errors import RanksError
from mrdist.recipe import Recipe
from mrdist.training import checkpoint
from mrdist.training.stopping import REGROUP, STOP, Stop
from mrdist_cluster.attempts import Beside, insist
from mrdist_cluster.standing import recent

ENDING, IDLE = 240.0, 20.0
"""Seconds that ranks have to save and end once they are asked to stop: those with steps to save, and those that only wait for data."""

LEAVING = 10.0
"""Seconds that the pipeline has to end after the ranks."""

ROOM = 300.0
"""Seconds that a cluster may take to have room for one rank at least."""

logger = logging.getLogger(__name__)


def drive(
    run: Path,
    recipe: Recipe,
    *,
    fit: Callable[[], int],
    train: Callable[[int], None],
    feed: Callable[[Callable[[], bool]], None],
    fed: Callable[[], int],
    look: Callable[[int], bool],
    every: float = 10.0,
) -> int:
    """Train the run of a folder; returns the exit code of the command.

    Args:
        fit: ranks that the cluster has room for now.
        train: trains on so many ranks, in this call, until they end: the run is done, or was asked to stop.
        feed: prepares what is not prepared, beside them, until what it is given says that it is to end.
        fed: how much of it is done.
        look: called every `every` seconds meanwhile, with the number of ranks; whether they are to start again, as many as fit.

    Signals and the file `stop` end a run as they do without a cluster (`mrdist.training.stopping`).

    Raises:
        MrdistError: what a rank or the pipeline says is wrong, or that one of them does not get on.
    """
    stop, ranks, over = Stop(run / STOP), 0, threading.Event()
    again = partial(insist, most=recipe.pools.restarts, unless=lambda: stop.asked)

    def attempt() -> None:
        nonlocal ranks
        while True:
            ranks = await_room(fit)
            (run / REGROUP).unlink(missing_ok=True)
            train(ranks)
            if stop.asked or (run / STOP).exists() or (run / "done").exists() or not (run / REGROUP).exists():
                return

    feeding = Beside(partial(again, lambda: feed(over.is_set), "the pipeline", got=fed), "pipeline")
    training = Beside(partial(again, attempt, "training", got=partial(saved, run)), "ranks")
    try:
        asked, looked = 0.0, time.monotonic()
        while not training.over:
            now = time.monotonic()
            if feeding.over:
                feeding.result()
            if stop.asked:
                asked = asked or now
                (run / STOP).touch()  # again and again: ranks that only now begin take it away
                if now - asked > (ENDING if taken(run) > saved(run) else IDLE):
                    logger.warning("the ranks did not end by themselves; what they did since step %d will be done again", saved(run))
                    return STOPPED
            if now - looked > every:
                looked = now
                if look(ranks):
                    (run / REGROUP).touch()
            time.sleep(0.5)
        training.result()
    finally:
        over.set()
        feeding.wait(LEAVING)
        stop.close()
    return DONE if (run / "done").is_file() else STOPPED


def taken(run: Path) -> int:
    """The last step that the ranks took; 0 if there is none."""
    return max((step["step"] for step in recent(run / "metrics.jsonl")), default=0)


def saved(run: Path) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    return int(found[0].name) if (found := checkpoint.complete(run / "steps")) else 0


def await_room(fit: Callable[[], int], *, within: float = ROOM) -> int:
    """How many ranks to start now; waits for a cluster that has lost its last place for one.

    Raises:
        RanksError: there was no place.
    """
    deadline = time.monotonic() + within
    while not (ranks := fit()):
        if time.monotonic() > deadline:
            raise RanksError(
                what="the cluster", got=f"no room for a rank for {within:g} s", wanted="one at least", try_="add nodes, and the same again"
            )
        time.sleep(1)
    return ranks
