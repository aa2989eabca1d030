"""What looks at a run after every step: guards it, shows it, evaluates it, saves it."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from mrdist.errors import MrdistError
from mrdist.objectives.base import Loss
from mrdist.progress import duration, significant
from mrdist.training import checkpoint
from mrdist.training.reading import Reading

if TYPE_CHECKING:
    from mrdist.training.run import Run

logger = logging.getLogger(__name__)


class Watcher:
    """Called on every rank, in the same order on every rank."""

    def after_step(self, run: Run, loss: Loss) -> None:
        """A step is done; `run.reading(loss)` has its numbers."""

    def at_end(self, run: Run) -> None:
        """The run is done, or was asked to stop."""

    def close(self) -> None:
        """Whatever happened: give back threads and files."""


def standard(run: Run, more: Sequence[Watcher] = ()) -> list[Watcher]:
    """The watchers of a run, in order: what may end it, then what measures, then what writes down, then what saves."""
    from mrdist.training.records import Board, Metrics
    from mrdist.training.watchdog import Watchdog

    watch = run.recipe.watch
    return [
        Watchdog(run, silence=watch.silence),
        Guard(),
        *more,
        Metrics(shapes=watch.shapes),
        Board(watch.log_every, watch.pictures_every),
        Console(watch.log_every),
        Saver(watch.save_every, watch.keep),
        Sweeper(),
    ]


class Guard(Watcher):
    """Ends a run whose numbers are no numbers, before they are saved."""

    def after_step(self, run: Run, loss: Loss) -> None:
        """
        Raises:
            MrdistError: names the terms, the ranks and the shapes.
        """
        strange = run.reading(loss).strange
        if not strange:
            return
        fine = bool(loss.total.isfinite())
        guilty = [rank for rank, well in enumerate(run.ranks.objects(fine)) if not well]
        named = ", ".join(f"{name} = {value}" for name, value in strange.items())
        on = f" from rank {', '.join(map(str, guilty))}" if guilty else ""
        shapes = [name for ids in run.ranks.objects(run.ids if not fine else ()) for name in ids]
        raise MrdistError(
            what=f"step {run.step}",
            got=f"{named}{on}; shapes at hand: {', '.join(shapes[:8]) or 'see why.txt'}",
            wanted="finite numbers",
            try_=f"look at these shapes; resume with optim.clip set, or begin anew with less than optim.lr={run.recipe.optim.lr:g}",
        )


class Evaluator(Watcher):
    """Measures the run now and then, and at its last step; remembers the best."""

    def __init__(self, every: int, measure: Callable[[Run], Mapping[str, float]], *, best: str = "") -> None:
        """
        Args:
            every: steps; 0 = at the last step only.
            measure: figures by name; called on every rank, those of the first rank count.
            best: the figure whose largest value marks the best checkpoint; "" for none.
        """
        self._every, self._measure, self._best = every, measure, best

    def after_step(self, run: Run, loss: Loss) -> None:
        run.measured = {}
        if not run.finished and (not self._every or run.step % self._every):
            return
        with run.ranks.clock.at("evaluate"):
            run.measured = run.ranks.objects(dict(self._measure(run)))[0]
        value = run.measured.get(self._best)
        if value is not None and (run.best is None or value > run.best[0]):
            run.best = (value, run.step)


class Saver(Watcher):
    """Saves every so many steps, when the best was measured, and at the end; keeps the newest and the best."""

    def __init__(self, every: int, keep: int) -> None:
        """
        Args:
            every: steps; 0 = at the end only.
            keep: newest checkpoints to keep, besides the best; at least 1.
        """
        self._every, self._keep = every, max(1, keep)

    def after_step(self, run: Run, loss: Loss) -> None:
        best = run.best is not None and run.best[1] == run.step
        if best or (self._every and run.step % self._every == 0):
            self._save(run)

    def at_end(self, run: Run) -> None:
        if run.step:
            self._save(run)

    def _save(self, run: Run) -> None:
        run.save()
        if not run.ranks.first:
            return
        steps = run.folder / "steps"
        best = steps / f"{run.best[1]:08d}" if run.best else None
        if best is not None and best.is_dir():
            checkpoint.point(run.folder / "best", best)
        for old in checkpoint.complete(steps)[self._keep :]:
            if old != best:
                checkpoint.remove(old)


class Sweeper(Watcher):
    """Collects garbage at the same steps on every rank: a pause of one is a pause of all."""

    EVERY = 100

    def __init__(self) -> None:
        gc.disable()
        gc.freeze()  # what is there now is there to stay

    def after_step(self, run: Run, loss: Loss) -> None:
        if run.step % self.EVERY == 0:
            gc.collect(1)

    def close(self) -> None:
        gc.unfreeze()
        gc.enable()


class Console(Watcher):
    """The first rank's line: one every so many steps, and on a terminal one that is always of now."""

    def __init__(self, every: int, stream: TextIO | None = None) -> None:
        """
        Args:
            every: steps between lines; 0 = say nothing.
            stream: standard output if None.
        """
        self._every = every
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._since: list[Reading] = []
        self._pace = 0.0  # seconds per step, of late
        self._warned = False

    def after_step(self, run: Run, loss: Loss) -> None:
        reading = run.reading(loss)
        self._since.append(reading)
        # The first step compiles, allocates and fills queues: it says nothing about the others.
        settled = run.step > run.begun + 1
        self._pace = self._pace * 0.95 + reading.seconds * 0.05 if settled and self._pace else reading.seconds
        if not (self._every and run.ranks.first):
            self._since.clear()
            return
        line = self._line(run, reading)
        if run.step % self._every == 0 or run.finished or run.measured:
            self._print(line)
            self._warn(run)
            self._since.clear()
        elif self._live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{line[:width]:<{width}}", end="", file=self._stream, flush=True)

    def at_end(self, run: Run) -> None:
        if self._every and run.ranks.first and not run.finished:
            self._print(f"stopped after step {run.step} of {run.recipe.steps}; to go on: mrdist train {run.folder}")

    def _line(self, run: Run, reading: Reading) -> str:
        seconds = sum(r.seconds for r in self._since)
        rate = sum(r.rows for r in self._since) / max(seconds, 1e-9)
        steps = run.recipe.steps
        sums: dict[str, float] = {}
        for name, value in reading.terms.items():
            family = name.partition("/")[0]  # align/image and align/text
            sums[family] = sums.get(family, 0.0) + value
        terms = " ".join(f"{name} {value:.3g}" for name, value in sums.items())
        # The first of what was measured; all of it is on the board and in metrics.jsonl.
        found = "".join(f"   {name} {value:.3g}" for name, value in list(run.measured.items())[:1])
        return (
            f"step {run.step:>{len(str(steps))}}/{steps}   loss {reading.loss:.3f}   {terms}   {significant(rate)} shapes/s"
            f"   wait {self._waiting():.0%}   left {duration(self._pace * (steps - run.step))}{found}"
        )

    def _waiting(self) -> float:
        return sum(r.wait for r in self._since) / max(sum(r.seconds for r in self._since), 1e-9)

    def _print(self, line: str) -> None:
        start = "\r\x1b[K" if self._live else ""
        print(start + line, file=self._stream, flush=True)

    def _warn(self, run: Run) -> None:
        if self._warned or run.step - run.begun < 50 or self._waiting() < 0.5:
            return
        self._warned = True
        self._print(
            f"{self._waiting():.0%} of the time goes to waiting for the loader: workers={run.recipe.workers} on {os.cpu_count()} cores"
        )
