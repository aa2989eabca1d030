"""A live recipe: its folder, ranks, engine, loader, watchers and step."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import torch
from torch import Tensor, nn

from mrdist.clock import WAIT, Clock
from mrdist.errors import CheckpointError, RecipeError
from mrdist.kinds import Part
from mrdist.objectives.base import Loss, Objective
from mrdist.ranks import Ranks, this_device
from mrdist.recipe import Recipe, plain
from mrdist.students.base import blank
from mrdist.training import checkpoint, rng, why
from mrdist.training import folder as folders
from mrdist.training.engine import Engine, Make
from mrdist.training.reading import Reading, read
from mrdist.training.stopping import REGROUP, STOP, Stop

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from mrdist.training.watchers import Watcher

logger = logging.getLogger(__name__)


class Loader(Protocol):
    """Where batches come from."""

    def batches(self, after: int) -> Iterable[Any]:
        """This rank's rows of the global batches that come after `after` steps, on its device, without end.

        None stands for a batch that is not there yet: then all ranks get it.
        """


class _StudentPart(Protocol):
    def build(self, width: int, *, seed: int) -> nn.Module: ...


class _ObjectivePart(Protocol):
    def build(self, student: nn.Module) -> Objective[Any]: ...


class _EnginePart(Protocol):
    def build(self, make: Make, recipe: Recipe, ranks: Ranks, device: torch.device) -> Engine: ...


@dataclass
class Run:
    """Made by `Run.open`. `with run:` surrounds its training; `train` does that."""

    recipe: Recipe
    folder: Path
    ranks: Ranks
    engine: Engine
    loader: Loader
    make: Make
    watchers: list[Watcher] = field(default_factory=list)
    step: int = 0
    begun: int = 0  # the step from which this process went on
    batch: Any = None  # the batch at hand
    measured: dict[str, float] = field(default_factory=dict)  # what was evaluated after this step
    best: tuple[float, int] | None = None  # the best of what was evaluated, and its step

    def __post_init__(self) -> None:
        self._stop = Stop(*(self.folder / name for name in (STOP, REGROUP) if self.ranks.first))
        self._agreed_to_stop = False
        self._reading: Reading | None = None
        self._log = folders.log_to(self.folder / "ranks" / f"{self.ranks.rank:04d}.log")

    @classmethod
    def open(
        cls, recipe: Recipe, folder: Path, ranks: Ranks, loader: Loader, width: int, watchers: Sequence[Watcher] = (), store: Any = None
    ) -> Run:
        """Begin a run in a new folder, or go on with the one that is there. Every rank calls.

        Args:
            width: length of the teacher's embeddings, and so of the student's.
            watchers: more of them; they see a step before it is written down and saved.
            store: what the objective studies before it begins; None: nothing.

        Raises:
            RecipeError: the folder belongs to another recipe or cannot be seen by all, or the recipe does not fit these ranks.
            CheckpointError: the run was saved before, and no checkpoint of it is whole.
        """
        from mrdist.training.watchers import standard

        if recipe.batch % ranks.size:
            nearest = max(1, round(recipe.batch / ranks.size)) * ranks.size
            raise RecipeError(what="batch", got=recipe.batch, wanted=f"a multiple of {ranks.size} ranks", try_=f"batch={nearest}")
        device = this_device(recipe.device)
        ranks = replace(ranks, clock=Clock(device))
        folders.enter(folder, recipe, ranks)
        rng.seed_all(recipe.seed, ranks.rank)

        def make(part: Part = recipe.student) -> Objective[Any]:
            student = cast(_StudentPart, part).build(width, seed=recipe.seed)
            return cast(_ObjectivePart, recipe.objective).build(student)

        engine = cast(_EnginePart, recipe.engine).build(make, recipe, ranks, device)
        run = cls(recipe, folder, ranks, engine, loader, partial(make, blank(recipe.student)))
        run.loader = _Marked(loader, run)
        try:
            run._go_on()
            if store is not None:
                engine.objective.study(store, ranks, device)
        except BaseException:
            run._close()
            raise
        run.watchers = standard(run, watchers)
        return run

    @property
    def finished(self) -> bool:
        """Whether all steps of the recipe are done."""
        return self.step >= self.recipe.steps

    @property
    def asked_to_stop(self) -> bool:
        """Whether some rank was asked to stop; all ranks know it after the same step."""
        return self._agreed_to_stop

    @property
    def ids(self) -> tuple[str, ...]:
        """The shapes of the batch at hand."""
        return tuple(getattr(self.batch, "ids", ()))

    @cached_property
    def board(self) -> SummaryWriter | None:
        """TensorBoard's writer, on the first rank. Steps that a resumed run takes again replace the old ones."""
        if not self.ranks.first:
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder / "board"), purge_step=self.begun + 1)

    def reading(self, loss: Loss) -> Reading:
        """The numbers of the step just done. Every rank calls it; ranks talk on the first call after a step."""
        if self._reading is None or self._reading.step != self.step:
            engine = self.engine
            self._reading, self._agreed_to_stop = read(
                loss, self._stop.asked, step=self.step, rate=engine.learning_rate, gradient_norm=engine.gradient_norm,
                rows=self.recipe.batch, ranks=self.ranks,
            )  # fmt: skip
        return self._reading

    def agree_to_stop(self) -> bool:
        """Whether some rank was asked to stop while none could take a step. Every rank calls."""
        self._agreed_to_stop = self.ranks.any(self._stop.asked)
        return self._agreed_to_stop

    def save(self) -> Path:
        """Write a checkpoint of this step, unless it is there, and point `latest` to it. Every rank calls.

        Raises:
            CheckpointError: it could not be written; older ones are untouched.
        """
        place = self.folder / "steps" / f"{self.step:08d}"
        if not self.ranks.objects((place / checkpoint.INDEX).is_file())[0]:
            facts = {
                "step": self.step,
                "best": self.best,
                "exported": self.engine.export_prefix(),
                "code": folders.code() if self.ranks.first else {},
                "recipe": plain(self.recipe),
            }
            with self.ranks.clock.at("save"):
                checkpoint.write(place, self.engine.state(), rng.taken(), facts, self.ranks)
            logger.info("step %d: saved %s", self.step, place)
        if self.ranks.first:
            checkpoint.point(self.folder / "latest", place)
        return place

    def student(self) -> nn.Module:
        """A plain copy of what the run exports (averaged weights, if there are any), in evaluation mode, on every rank.

        It knows no engine and no other rank: any rank may call it any number of times. Every rank must make one.
        """
        student = self.make().exported()
        student.load_state_dict(self.engine.student_state())
        return student.to(self.engine.device).eval()

    def export(self) -> dict[str, Tensor] | None:
        """The state dict of `student()`, on the CPU of the first rank; None on the others. Every rank calls."""
        state = self.engine.student_state(keep=self.ranks.first)
        return state if self.ranks.first else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        file = self.folder / "why.txt"
        try:
            for watcher in self.watchers if error is None else ():
                watcher.at_end(self)
        except BaseException as wrong:
            error = wrong
            raise
        finally:
            with suppress(OSError):  # a full disk must not hide what went wrong
                if error is not None:
                    why.append(file, why.failure(error, self.ranks, self.step, self.ids))
                elif self.ranks.first and file.is_file():
                    os.replace(file, self.folder / "silences.txt")  # it went on after all
            self._close()

    def _close(self) -> None:
        board = self.__dict__.get("board")
        with ExitStack() as stack:  # all of it, whatever one of them raises
            stack.callback(folders.log_no_more, self._log)
            stack.callback(self._stop.close)
            for one in (*([board] if board else []), *reversed(self.watchers)):
                stack.callback(folders.let_go, one)

    def _go_on(self) -> None:
        """Load the newest checkpoint that is whole, if there is any."""
        if self.ranks.first:
            checkpoint.sweep(self.folder / "steps")
        refused: list[str] = []
        stored = None
        found = self.ranks.objects(checkpoint.complete(self.folder / "steps"))[0]
        for place in found:
            try:
                stored = checkpoint.opened(place, self.ranks)
                break
            except CheckpointError as wrong:
                logger.warning("passed over a checkpoint: %s", wrong)
                refused.append(str(wrong))
        metrics = self.folder / "metrics.jsonl"
        taken = self.ranks.objects(folders.last_step(metrics))[0]
        if stored is not None:
            self._load(stored)
            for place in found[: len(refused)] if self.ranks.first else ():
                checkpoint.set_aside(place)
        elif refused or self.ranks.objects((self.folder / "latest").is_symlink())[0]:
            raise CheckpointError(
                what=str(self.folder),
                got="; ".join(refused) or f"{taken} steps taken, and a checkpoint that is gone",
                wanted="a checkpoint to go on from",
                try_="begin anew in a new folder",
            )
        elif taken:
            logger.warning("steps 1 to %d were taken, and the run died before anything was saved: it begins anew", taken)
        if self.ranks.first:
            folders.cut_metrics(metrics, self.step)

    def _load(self, stored: checkpoint.Stored) -> None:
        changed = folders.differences(stored.facts["recipe"], plain(self.recipe))
        if changed:
            raise CheckpointError(
                what=str(stored.folder), got=f"another recipe: {', '.join(changed)}", wanted="this run's recipe", try_="its own run folder"
            )
        stored.check(self.engine.shapes())
        self.step = self.begun = int(stored.facts["step"])
        self.engine.load(stored, self.step)
        best = stored.facts["best"]
        self.best = (float(best[0]), int(best[1])) if best else None
        own = stored.own(self.ranks)
        if own:
            rng.put_back(own)
        else:
            rng.seed_all(self.recipe.seed, self.ranks.rank, self.step)
        logger.info("went on from %s on %d ranks (it was written on %d)", stored.folder, self.ranks.size, stored.facts["ranks"])


@dataclass
class _Marked:
    """A loader that keeps the run's batch, lets its clock see who waits, and ends when a run that waits is asked to stop."""

    loader: Loader
    run: Run

    def batches(self, after: int) -> Iterator[Any]:
        run, served = self.run, iter(self.loader.batches(after))
        while True:
            with run.ranks.clock.at(WAIT):
                try:
                    batch = next(served)
                except StopIteration:
                    return
            if batch is not None:
                run.batch = batch
                yield batch
            elif run.agree_to_stop():
                return
