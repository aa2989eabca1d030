"""What a recipe names and this machine has not: found before anything is spent, by everybody but those who only plan."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path

from mrdist.cli.contradictions import contradictions
from mrdist.errors import MrdistError, RecipeError
from mrdist.recipe import Recipe


def refuse(recipe: Recipe, run: Path | None = None) -> None:
    """Raise the first thing that keeps a recipe from being trained here.

    Args:
        run: its folder, where it has begun.

    Raises:
        MrdistError: as `contradictions` or `lacking` give it.
    """
    for problem in chain(contradictions(recipe), lacking(recipe, run)):
        raise problem


def lacking(recipe: Recipe, run: Path | None = None) -> Iterator[MrdistError]:
    """Files and folders that are not there, or cannot be written to; and what the teacher's library does not know. No data are read.

    Args:
        run: its folder, where it has begun.
    """
    from mrdist.evaluation.prompts import in_file, templates
    from mrdist.prepare.brought import brings, fitting

    looks: list[Callable[[], object]] = [lambda: writable("run", run) if run else writable("runs", Path(recipe.runs))]
    if brings(recipe):
        looks.append(lambda: fitting(recipe))
    else:
        looks.append(lambda: writable("store", Path(recipe.store)))
    # Whoever began a run looked for its teacher. Whoever goes on may need none, and every rank would import its library for it.
    parts = [getattr(recipe, part.name) for part in fields(recipe) if not (run and part.name == "teacher")]
    looks += [part.look for part in parts if hasattr(part, "look")]
    if in_file(recipe.evaluate.templates):
        looks.append(lambda: templates(recipe.evaluate.templates))
    for look in looks:
        try:
            look()
        except MrdistError as wrong:
            yield wrong


def writable(key: str, folder: Path) -> None:
    """Refuse a folder in which nothing can be written, and that cannot be made. Makes nothing.

    Raises:
        RecipeError: it is one.
    """
    whole = folder.absolute()
    there = next(path for path in [whole, *whole.parents] if os.path.lexists(path))
    if os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK):
        return
    got = f"{there}, where you may not write" if os.path.isdir(there) else f"{there}, which is no folder"
    raise RecipeError(what=f"{key}={folder}", got=got, wanted="a folder that can be written to, or made", try_=f"{key}=FOLDER of your own")
