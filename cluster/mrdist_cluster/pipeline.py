"""The pipeline: meshes -> views -> embeddings -> triplets, by pools of actors on a Ray cluster; a re-run does only what is missing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from uuid import uuid4

from mrdist.data.claims import held
from mrdist.data.shards import Shards, unit_name
from mrdist.errors import DataError
from mrdist.prepare.brought import brings
from mrdist.prepare.prepared import opened
from mrdist.prepare.units import finish_renders, finish_triplets, finished, learns, note_of
from mrdist.prepare.work import Round, Work
from mrdist.progress import Progress, silent
from mrdist.recipe import Recipe
from mrdist_cluster.book import Share
from mrdist_cluster.figures import Figures
from mrdist_cluster.pools import Pools
from mrdist_cluster.rows import DAMAGED, DONE, THERE, Report
from mrdist_cluster.settings import fill

_log = logging.getLogger(__name__)

PASS = 1024
"""Units that are handed to the pools at once; then it is looked again what is missing."""

EVERY = 30.0
"""Seconds between two lines of figures in the log."""


def run_pipeline(
    recipe: Recipe,
    share: Share,
    progress: Progress = silent,
    *,
    asked: Callable[[], bool] = lambda: False,
    step: Callable[[], int] | None = None,
    thorough: bool = False,
) -> dict[str, Figures]:
    """Do whatever of a recipe's preparation has not been done, on the Ray cluster that this process has joined.

    Makes what `mrdist prepare` makes, bit for bit, in the order in which a run of the recipe wants it. Any number of pipelines, and of
    `mrdist prepare`, may work on one store at once. May be called in a thread. Where nothing is missing, Ray is not asked for anything.

    Args:
        share: how many render and teach.
        progress: told of shapes, by stage.
        asked: whether to end soon, with what is through the pools by then.
        step: how far training is; views are redrawn for one round ahead of it, and no more. None: for all rounds that the recipe needs.
        thorough: read all that is there and compare hashes; what is damaged is made again.

    Returns:
        how fast it was, by stage; empty where nothing was missing.

    Raises:
        MrdistError: what is missing, damaged or impossible, also where an actor says so.
        ray.exceptions.RayError: the cluster has lost more than a renderer or a teacher; the same again does what is missing.
    """
    if brings(recipe):
        return {}
    work = Work.open(replace(recipe, store=str(Path(recipe.store).resolve())), progress)
    line = _Line(work, Pools(share, uuid4().hex), progress, asked, thorough)
    first = line.first
    while learns(recipe) and note_of(first) is None and not asked():
        line.finish(first, teach=False)
        try:
            line.finish(first)
        except DataError:
            if not work.undrawn(first):  # no unit that the teacher found to be damaged while it learnt
                raise
    line.finish(first)
    if not recipe.redraw or asked():
        return line.figures
    shapes = len(opened(work).store.indices("train"))
    for number in range(1, work.rounds(shapes)):
        while step is not None and not asked() and number > step() // (shapes // recipe.batch) // recipe.redraw + 1:
            time.sleep(1)
        line.finish(work.round(number))
    return line.figures


@dataclass
class _Line:
    """The pools at work on a recipe, round by round."""

    work: Work
    pools: Pools
    progress: Progress
    asked: Callable[[], bool]
    thorough: bool
    figures: dict[str, Figures] = field(default_factory=dict)
    looked: float = field(default_factory=time.monotonic)

    @cached_property
    def first(self) -> Round:
        """The round that the teacher of all rounds may have to learn from."""
        return self.work.round()

    def finish(self, round: Round, *, teach: bool = True) -> None:
        """Make what is missing of a round, and write its indexes."""
        drawn, order = Shards(round.renders), self.work.order
        undrawn = drawn.missing(order, thorough=self.thorough)
        untaught = self._untaught(round, order, thorough=self.thorough) if teach else []
        taught = self._taught(round) if teach else None
        if not (undrawn or untaught) and finished(drawn.folder) and (taught is None or finished(taught.folder)):
            return
        for shards in filter(None, (drawn, taught)):
            shards.folder.mkdir(parents=True, exist_ok=True)
            shards.sweep()
        while undrawn or untaught:
            if self.asked():
                return
            damaged = self._pass(round, undrawn, untaught, teach=teach)
            undrawn = drawn.missing(self._ordered({*undrawn, *damaged}))
            untaught = self._untaught(round, untaught)
        for trial in round.renders.glob("*.trial"):
            trial.unlink(missing_ok=True)  # of pipelines that ended in the middle
        finish_renders(self.work, round)
        if teach:
            note = note_of(self.first)
            assert note is not None, "who embedded has left it"
            finish_triplets(round, note.teacher, note.width)

    def _taught(self, round: Round) -> Shards | None:
        """Where the embeddings of a round lie, as soon as somebody has opened the teacher."""
        note = note_of(self.first)
        return Shards(round.triplets(note.teacher)) if note else None

    def _untaught(self, round: Round, numbers: Sequence[int], *, thorough: bool = False) -> list[int]:
        taught = self._taught(round)
        return taught.missing(numbers, thorough=thorough) if taught else list(numbers)

    def _pass(self, round: Round, undrawn: Sequence[int], untaught: Sequence[int], *, teach: bool) -> set[int]:
        """Hand to the pools what nobody else is at work on; returns units that were taken for drawn, and are damaged."""
        left, taught = {*undrawn, *untaught}, self._taught(round)
        others = {name for shards in (Shards(round.renders), taught) if shards for name in held(shards.folder, by=self.pools.name)}
        todo = [number for number in self._ordered(left) if unit_name(number) not in others][:PASS]
        if not todo:
            time.sleep(1)  # they will be done, or their claims will end
            return set()
        draw = not frozenset(undrawn).isdisjoint(todo)
        stage = " and ".join(name for name, wanted in (("render", draw), ("embed", teach)) if wanted)
        shapes = {number: len(self.work.units[number]) for number in self.work.order}
        total, done = sum(shapes.values()), sum(shapes[number] for number in shapes.keys() - left)
        damaged: set[int] = set()
        units = {number: self.work.units[number] for number in todo}
        with closing(self.pools.run(self.first, round, units, draw=draw, teach=teach)) as reports:
            for report in reports:
                self._count(stage, report)
                if report.state in (DONE, THERE):
                    done += shapes[report.unit]
                    self.progress(stage, done, total)
                elif report.state == DAMAGED:
                    damaged.add(report.unit)
                if self.asked():
                    break
        return damaged

    def _count(self, stage: str, report: Report) -> None:
        figures = self.figures.setdefault(stage, Figures())
        figures.add(report)
        if time.monotonic() - self.looked > EVERY or not figures.fullest.has:
            self.looked = time.monotonic()
            figures.filled(fill())
            _log.info("%s: %s", stage, figures.line())

    def _ordered(self, numbers: Iterable[int]) -> list[int]:
        wanted = frozenset(numbers)
        return [number for number in self.work.order if number in wanted]
