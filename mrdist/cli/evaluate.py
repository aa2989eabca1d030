"""`mrdist evaluate` and `mrdist compare`: figures, with the contract they were measured under."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mrdist.cli.main import DONE, Flags
from mrdist.cli.outcome import measured, trained
from mrdist.cli.screen import Screen
from mrdist.errors import RecipeError
from mrdist.recipe import Recipe, fingerprint, load

if TYPE_CHECKING:
    from mrdist.teachers.base import Teacher


def evaluate(words: Sequence[str], flags: Flags) -> int:
    """`evaluate RUN [SPLIT ...] [key=value ...]`: zero-shot and retrieval of a run's best student, written beside it.

    With `data=...`, on another catalogue, seen through the run's own teacher.
    """
    from mrdist.evaluation import report
    from mrdist.prepare import open_prepared, prepare
    from mrdist.ranks import Ranks

    folder = run_folder("evaluate", words)
    splits = [word for word in words[1:] if "=" not in word]
    changes = [word for word in words[1:] if "=" in word]
    recipe = load(folder)
    if flags.dry_run:
        print(f"would measure {', '.join(splits or recipe.evaluate.splits)} with the student of {folder}")
        return DONE
    ranks = Ranks.from_environment(device=recipe.device)
    try:
        screen = Screen(quiet=flags.quiet or not ranks.first)
        prepared = open_prepared(recipe)
        encoder = trained(folder, recipe, prepared, ranks)
        target = folder
        if changes:
            recipe = through(prepared.teacher, load(folder, changes), recipe)
            prepared, target = prepare(recipe, screen), folder / "elsewhere" / fingerprint(recipe.data, recipe.evaluate)
        found = measured(encoder, folder.name, recipe, prepared, splits or recipe.evaluate.splits, ranks, screen)
        if ranks.first:
            report.write(found, target)
            print(json.dumps(found.flat(), indent=1) if flags.json else report.table(found))
    finally:
        ranks.leave()
    return DONE


def through(teacher: Teacher, changed: Recipe, recipe: Recipe) -> Recipe:
    """`changed`, with the teacher of `recipe`: one that was fitted stays the one it is, whatever it would learn from other data."""
    from mrdist.teachers.clip import ClipConfig

    made_here = getattr(teacher, "folder", None)
    return replace(changed, teacher=ClipConfig(model=str(made_here)) if made_here else recipe.teacher)


def compare(words: Sequence[str], flags: Flags) -> int:
    """`compare RUN RUN ...`: every figure that the reports share, with differences from the first; says where contracts differ."""
    from mrdist.evaluation import report

    if len(words) < 2:
        raise RecipeError(what="mrdist compare", got=" ".join(words) or "nothing", wanted="two runs or more", try_="ls runs/")
    print(report.compare([report.read(Path(word)) for word in words]))
    return DONE


def is_run(word: str) -> bool:
    """Whether a word names a run folder. Another folder may well bear the name of a recipe."""
    return (Path(word) / "recipe.yaml").is_file()


def run_folder(verb: str, words: Sequence[str]) -> Path:
    """The run folder that a verb was given.

    Raises:
        RecipeError: there is none of that name.
    """
    if not words or not is_run(words[0]):
        raise RecipeError(what=f"mrdist {verb}", got=" ".join(words[:1]) or "nothing", wanted="a run folder", try_="ls runs/")
    return Path(words[0])
