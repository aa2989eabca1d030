"""`mrdist evaluate` and `mrdist compare`: figures, with the contract they were measured under."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mrdist.cli.main import DONE, Flags
from mrdist.cli.outcome import measured, trained
from mrdist.cli.screen import Screen
from mrdist.errors import RecipeError
from mrdist.recipe import load


def evaluate(words: Sequence[str], flags: Flags) -> int:
    """`evaluate RUN [SPLIT ...]`: zero-shot and retrieval of a run's best student, written beside it."""
    from mrdist.evaluation import report
    from mrdist.prepare import open_prepared
    from mrdist.ranks import Ranks

    folder = run_folder("evaluate", words)
    recipe = load(folder)
    ranks = Ranks.from_environment()
    try:
        prepared = open_prepared(recipe)
        splits = words[1:] or recipe.evaluate.splits
        encoder = trained(folder, recipe, prepared, ranks)
        screen = Screen(quiet=flags.quiet or not ranks.first)
        found = measured(encoder, folder.name, recipe, prepared, splits, ranks, screen)
        if ranks.first:
            if not flags.dry_run:
                report.write(found, folder)
            print(json.dumps(found.flat(), indent=1) if flags.json else report.table(found))
    finally:
        ranks.leave()
    return DONE


def compare(words: Sequence[str], flags: Flags) -> int:
    """`compare RUN RUN ...`: every figure that the reports share, with differences from the first; says where contracts differ."""
    from mrdist.evaluation import report

    if len(words) < 2:
        raise RecipeError(what="mrdist compare", got=" ".join(words) or "nothing", wanted="two runs or more", try_="ls runs/")
    print(report.compare([report.read(Path(word)) for word in words]))
    return DONE


def run_folder(verb: str, words: Sequence[str]) -> Path:
    """The run folder that a verb was given.

    Raises:
        RecipeError: there is none of that name.
    """
    if not words or not (Path(words[0]) / "recipe.yaml").is_file():
        raise RecipeError(what=f"mrdist {verb}", got=" ".join(words[:1]) or "nothing", wanted="a run folder", try_="ls runs/")
    return Path(words[0])
