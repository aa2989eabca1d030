"""`mrdist train`: from meshes to figures, or on from where a run stopped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mrdist.cli.contract import contradictions
from mrdist.cli.main import DONE, STOPPED, Flags
from mrdist.cli.screen import Screen
from mrdist.errors import RecipeError
from mrdist.recipe import Recipe, fingerprint, load, to_yaml


def train(words: Sequence[str], flags: Flags) -> int:
    """Prepare, train, evaluate and export; every part does only what is not done yet."""
    if not words:
        raise RecipeError(what="mrdist train", got="nothing", wanted="a recipe or a run folder", try_="mrdist train smoke")
    source, changes = words[0], words[1:]
    recipe = load(source, changes)
    if problems := contradictions(recipe):
        raise problems[0]
    if flags.dry_run:
        print(to_yaml(recipe))
        return DONE
    return carry_out(recipe, Path(source) if Path(source).is_dir() else None, flags)


def resume(words: Sequence[str], flags: Flags) -> int:
    """Go on with a run.

    Raises:
        RecipeError: the first word is no run folder.
    """
    if not words or not (Path(words[0]) / "recipe.yaml").is_file():
        raise RecipeError(
            what="mrdist resume", got=" ".join(words[:1]) or "nothing", wanted="a run folder", try_="ls runs/, or mrdist train RECIPE"
        )
    return train(words, flags)


def carry_out(recipe: Recipe, folder: Path | None, flags: Flags) -> int:
    """What `mrdist train` does on every rank; `folder` is an existing run, or None for a new one."""
    from mrdist.cli.finish import finish
    from mrdist.data.loader import Loader
    from mrdist.prepare import prepare
    from mrdist.ranks import Ranks
    from mrdist.training.loop import train as train_run
    from mrdist.training.run import Run, choose_device

    rank = int(os.environ.get("RANK", "0"))
    screen = Screen(quiet=flags.quiet or rank != 0)
    # Before the ranks meet: preparing may take hours, and a collective must not wait that long. Whoever comes first works, the others
    # wait for its files.
    prepared = prepare(recipe, screen)
    ranks = Ranks.from_environment()
    try:
        if folder is None:
            folder = Path(ranks.objects(str(new_folder(recipe)) if ranks.first else "")[0])
        loader = Loader(
            prepared.store, "train", batch=recipe.batch, sample=recipe.sample, seed=recipe.seed, ranks=ranks,
            augment=recipe.augment, workers=recipe.workers, device=choose_device(recipe),
        )  # fmt: skip
        run = Run.open(recipe, folder, ranks, loader, width=prepared.store.width)
        train_run(run)
        if run.asked_to_stop:
            return STOPPED
        return finish(run, prepared, screen, flags)
    finally:
        ranks.leave()


def new_folder(recipe: Recipe) -> Path:
    """A run folder that is not there yet: day, name, and four digits that say which recipe."""
    from datetime import date

    stem = f"{date.today():%Y-%m-%d}-{recipe.name.replace('/', '-')}-{fingerprint(recipe)[:4]}"
    folder = Path(recipe.runs) / stem
    number = 1
    while folder.exists():
        number += 1
        folder = Path(recipe.runs) / f"{stem}-{number}"
    return folder
