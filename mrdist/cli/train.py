"""`mrdist train`: from meshes to figures, or on from where a run stopped."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mrdist.cli.evaluate import is_run, run_folder
from mrdist.cli.lacking import refuse
from mrdist.cli.main import DONE, STOPPED, Flags
from mrdist.cli.outcome import live, measured, results, trained
from mrdist.cli.picture import relations
from mrdist.cli.screen import Screen
from mrdist.errors import RanksError, RecipeError
from mrdist.progress import silent
from mrdist.recipe import Recipe, fingerprint, load, to_yaml

if TYPE_CHECKING:
    from mrdist.prepare import Prepared
    from mrdist.ranks import Ranks
    from mrdist.students.base import Student
    from mrdist.training.records import Look
    from mrdist.training.watchers import Watcher

logger = logging.getLogger(__name__)


def train(words: Sequence[str], flags: Flags) -> int:
    """Prepare, train, evaluate and export; every part does only what is not done yet."""
    if not words:
        raise RecipeError(what="mrdist train", got="nothing", wanted="a recipe or a run folder", try_="mrdist train smoke")
    source, changes = words[0], words[1:]
    recipe, run = load(source, changes), Path(source) if is_run(source) else None
    refuse(recipe, run)
    if flags.dry_run:
        print(to_yaml(recipe))
        return DONE
    return carry_out(recipe, run, flags)


def resume(words: Sequence[str], flags: Flags) -> int:
    """Go on with a run.

    Raises:
        RecipeError: the first word is no run folder.
    """
    run_folder("resume", words)
    return train(words, flags)


def carry_out(recipe: Recipe, folder: Path | None, flags: Flags) -> int:
    """What `mrdist train` does on every rank; `folder` is an existing run, or None for a new one."""
    from mrdist.data.loader import Loader
    from mrdist.data.order import TRAIN
    from mrdist.data.rounds import Rounds
    from mrdist.prepare import follow, prepare
    from mrdist.ranks import this_device
    from mrdist.training.loop import train as train_run
    from mrdist.training.records import FirstLook
    from mrdist.training.run import Run
    from mrdist.training.watchers import Evaluator

    screen = Screen(quiet=flags.quiet or int(os.environ.get("RANK", "0")) != 0)
    # Before the ranks meet: preparing may take hours, longer than a collective may wait. The ranks share the work through the store.
    needed = (TRAIN, *recipe.measured)
    prepared = follow(recipe, screen, splits=needed) if recipe.live else prepare(recipe, screen, splits=needed)
    store = prepared.store
    for split in () if store.followed else needed:
        store.indices(split)  # complains where none of its shapes could be drawn
    ranks = _met(recipe, folder)
    try:
        loader = Loader(
            store, "train", batch=recipe.batch, sample=recipe.sample, seed=recipe.seed, ranks=ranks, augment=recipe.augment,
            workers=recipe.workers, device=this_device(recipe.device), rounds=Rounds(store, recipe.redraw, prepared.later),
        )  # fmt: skip

        def validate(run: Run) -> dict[str, float]:
            if store.followed and not run.finished and ranks.any(not store.complete()):
                logger.info("step %d: nothing is evaluated while the store grows", run.step)
                return {}
            encoder = live(cast("Student", run.student()), recipe, prepared, run.step)
            return measured(encoder, run.folder.name, recipe, prepared, ["val"], ranks, silent).flat()

        watchers: list[Watcher] = [FirstLook(lambda: first_look(prepared))]
        if recipe.watch.evaluate_every:
            watchers.append(Evaluator(recipe.watch.evaluate_every, validate, best="val/top1"))
        folder = folder or told_folder(recipe, ranks)
        run = train_run(Run.open(recipe, folder, ranks, loader, width=store.width, watchers=watchers, store=store))
        if run.asked_to_stop and not run.finished:
            return STOPPED
        conclude(folder, recipe, prepared, ranks, screen)
    finally:
        ranks.leave()
    return DONE


def _met(recipe: Recipe, folder: Path | None) -> Ranks:
    """The ranks of this run. Why they did not meet stands in why.txt, if the run folder is known by then."""
    from mrdist.ranks import Ranks
    from mrdist.training import why

    try:
        return Ranks.from_environment(device=recipe.device, deadline=recipe.watch.deadline)
    except RanksError as wrong:
        if folder is not None and "RANK" in os.environ:
            me = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
            with me.clock.at("meeting"):
                why.append(folder / "why.txt", why.failure(wrong, me, 0, ()))
        raise


def first_look(prepared: Prepared, shapes: int = 4) -> Look:
    """Views and clouds of some shapes of the unit that is trained on first, for the board."""
    import numpy as np

    from mrdist.data.pictures import decode
    from mrdist.shapes import Points
    from mrdist.training.records import Look

    if not prepared.renders.units:
        seen = [prepared.store[row] for row in prepared.store.indices("train")[:shapes].tolist()]
        return Look({}, {one.id: one.points for one in seen})
    drawn = prepared.renders.unit(prepared.shown).shapes()[:shapes]
    views = {one.id: np.concatenate([decode(view) for view in one.views[:6]], axis=1) for one in drawn if one.views}
    clouds = {one.id: Points(one.xyz.astype(np.float32), np.divide(one.rgb, 255, dtype=np.float32)) for one in drawn}
    return Look(views, clouds)


def conclude(folder: Path, recipe: Recipe, prepared: Prepared, ranks: Ranks, screen: Screen) -> None:
    """Measure the best student, export it, mark the run as done, and say what to type next."""
    from mrdist.evaluation import report

    encoder = trained(folder, recipe, prepared, ranks)
    found = measured(encoder, folder.name, recipe, prepared, recipe.evaluate.splits, ranks, screen)
    if ranks.first:
        report.write(found, folder)
        relations(encoder, prepared, recipe.evaluate.splits[0], folder / "relations.png")
        encoder.save(folder / "export", teacher_folder=getattr(prepared.teacher, "folder", None), results=results(found, recipe))
        (folder / "done").touch()
        print(report.table(found, contract=False))
        print(f"{folder}\nnext: mrdist embed {folder} FILE... up=y · tensorboard --logdir {folder / 'board'}")
    ranks.wait()


def told_folder(recipe: Recipe, ranks: Ranks) -> Path:
    """A new run folder, made by the first rank; every rank calls. No other looks for it: clients of file servers know what was missing.

    Raises:
        RecipeError: it cannot be made; on every rank.
    """
    made: Path | RecipeError | None = None
    if ranks.first:
        try:
            made = new_folder(recipe)
        except RecipeError as wrong:
            made = wrong
    made = ranks.objects(made)[0]
    if isinstance(made, RecipeError):
        raise made
    assert made is not None, "the first rank has made one"
    return made


def new_folder(recipe: Recipe) -> Path:
    """Make an empty run folder, which is nobody else's, whoever makes another at the same moment.

    Raises:
        RecipeError: it cannot be made.
    """
    try:
        Path(recipe.runs).mkdir(parents=True, exist_ok=True)
        return next(filter(_made, _names(recipe)))
    except OSError as wrong:
        raise RecipeError(
            what=f"runs={recipe.runs}", got=wrong.strerror, wanted="a folder that can be written", try_="runs=/another/folder"
        ) from None


def _made(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def free_name(recipe: Recipe) -> Path:
    """A run folder that is not there yet, and that anybody else may make."""
    return next(folder for folder in _names(recipe) if not folder.exists())


def _names(recipe: Recipe) -> Iterator[Path]:
    """Names for a run folder: day, name, and four digits that say which recipe; then the same with 2, 3, ..."""
    from datetime import date

    stem = f"{date.today():%Y-%m-%d}-{recipe.name.replace('/', '-')}-{fingerprint(recipe)[:4]}"
    return (Path(recipe.runs) / (stem if number == 1 else f"{stem}-{number}") for number in count(1))
