"""Everything that a recipe needs, made by one process; several of them, on several machines, share the work."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from mrdist.data.claims import Claims, Worklist
from mrdist.data.crew import draw_units
from mrdist.data.faults import MachineFault
from mrdist.data.order import TRAIN
from mrdist.data.renders import Drawn
from mrdist.data.shards import Shards, unit_name
from mrdist.errors import DataError
from mrdist.prepare.brought import brings
from mrdist.prepare.prepared import Prepared, complete, open_prepared, opened
from mrdist.prepare.units import announce, crew_of, finish_renders, finish_triplets, finished, learns, open_teacher, read_unit, teach_unit
from mrdist.prepare.work import Round, Work
from mrdist.progress import Progress, silent
from mrdist.ranks import this_device
from mrdist.recipe import Recipe
from mrdist.teachers.base import Teacher
from mrdist.teachers.cache import Cache

_log = logging.getLogger(__name__)


def prepare(recipe: Recipe, progress: Progress = silent, *, thorough: bool = False, splits: Sequence[str] = ()) -> Prepared:
    """Do whatever of a recipe's preparation has not been done, and open the result.

    Several processes, on several machines, may prepare one store at once, and so may the ranks of a run: they share the work.
    Units are made in the order in which a run of this recipe wants them, each embedded as soon as it is drawn, unless the teacher
    has to see all of them first. No collective is called here. On GPUs, each rank's current device should be its own by now.

    Args:
        progress: told of "render" (shapes), "embed" (units of shapes), and what data and teachers do by themselves.
        thorough: read all that is there and compare hashes, also of the teacher's weights; what is damaged or was said by another
            teacher is made again. Otherwise no teacher is loaded where everything is there.
        splits: must be in the catalogue; checked before anything is drawn.

    Raises:
        DataError, TeacherError: what is missing, damaged or impossible.
        RecipeError: there is no such device, or views that cannot be made.
    """
    this_device(recipe.device)  # hours before the teacher needs it
    if brings(recipe):
        return open_prepared(recipe)
    work = Work.open(recipe, progress)
    work.has(splits)
    if not thorough and complete(work):
        return opened(work)
    first = work.round()
    teacher = _fitted(work, first, progress) if learns(recipe) else open_teacher(first, progress)
    announce(first, teacher)
    make(work, first, teacher, progress, thorough=thorough)
    prepared = opened(work)
    trained = len(prepared.store.indices(TRAIN)) if TRAIN in prepared.store.splits else 0  # none: it is only measured on
    for number in range(1, work.rounds(trained)):
        make(work, work.round(number), teacher, progress, thorough=thorough)
    return prepared


def _fitted(work: Work, first: Round, progress: Progress) -> Teacher:
    """A teacher that looks at views before it embeds."""
    while True:
        draw(work, first, work.undrawn(first), lambda drawn: None, progress)
        try:
            return open_teacher(first, progress)
        except DataError:
            if not work.undrawn(first):  # it was no damaged unit
                raise


def draw(work: Work, round: Round, missing: Sequence[int], drawn: Callable[[Drawn], None], progress: Progress) -> None:
    """Draw some units of a round.

    Args:
        drawn: told of every unit that was drawn here, once it is written; shapes go on being drawn meanwhile.

    Raises:
        DataError: the disk is full, the folder belongs to another catalogue, nothing can be drawn, or this machine cannot read the meshes.
    """
    if missing:
        shards = Shards(round.renders)
        round.renders.mkdir(parents=True, exist_ok=True)
        shards.sweep()
        size = min(work.recipe.workers, sum(len(work.units[number]) for number in missing))
        with Claims(round.renders) as claims, crew_of(round, size) as crew:
            try:
                draw_units(
                    work.units, missing, shards, claims, crew, root=round.root, points=work.recipe.points, drawn=drawn, progress=progress
                )
            except MachineFault as fault:
                raise fault.told(round.root) from None
    if missing or not finished(round.renders):
        finish_renders(work, round)


def make(work: Work, round: Round, teacher: Teacher, progress: Progress, *, thorough: bool = False) -> None:
    """Draw and embed what is missing of a round; `thorough` as for `prepare`.

    Raises:
        DataError: as `draw`.
    """
    name = teacher.fingerprint
    undrawn, untaught = work.undrawn(round, thorough=thorough), work.untaught(round, name, thorough=thorough)
    shards = Shards(round.triplets(name))
    if not (undrawn or untaught) and finished(round.renders) and finished(shards.folder):
        return
    shards.folder.mkdir(parents=True, exist_ok=True)
    shards.sweep()
    with Claims(shards.folder) as claims, Cache(round.embeddings, name) as known:

        def teach(drawn: Drawn) -> None:
            teach_unit(round, drawn, teacher, known)

        def at_once(drawn: Drawn) -> None:
            if claims.take(unit_name(drawn.number)):
                teach(drawn)
                claims.release(unit_name(drawn.number))

        while True:
            # First what somebody drew and did not come to embed: a live run may be waiting for it.
            later = frozenset(undrawn)
            _embed(round, [number for number in untaught if number not in later], shards, claims, teach, progress)
            draw(work, round, undrawn, at_once, progress)
            _embed(round, shards.missing(untaught), shards, claims, teach, progress)
            undrawn, untaught = work.undrawn(round), work.untaught(round, name)  # what was found to be damaged
            if not (undrawn or untaught):
                break
    finish_triplets(round, name, teacher.width)


def _embed(
    round: Round, missing: Sequence[int], shards: Shards, claims: Claims, teach: Callable[[Drawn], None], progress: Progress
) -> None:
    """Embed units that are drawn; one whose views are damaged is passed over, and counts as not drawn from now on."""
    done = round.units - len(missing)
    work = Worklist(missing, shards, claims)
    while len(work) > 0:
        number = work.take()
        if number is None:
            time.sleep(0.2)
            continue
        try:
            drawn = read_unit(round, number)
        except DataError as wrong:
            _log.warning("to be drawn again: %s", wrong)
        else:
            teach(drawn)
        work.done(number)
        done += 1
        progress("embed", done, round.units)
    if missing:
        progress("embed", round.units, round.units)  # with what other processes did meanwhile
