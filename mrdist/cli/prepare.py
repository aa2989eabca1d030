"""`mrdist prepare` and `mrdist teacher fit`: what comes before training, alone."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mrdist.cli.main import DONE, Flags
from mrdist.cli.screen import Screen
from mrdist.errors import RecipeError
from mrdist.recipe import load


def prepare(words: Sequence[str], flags: Flags) -> int:
    """Meshes -> views -> embeddings -> triplets; a re-run does only what is missing, and what it finds damaged."""
    from mrdist.prepare import brings
    from mrdist.prepare import prepare as make

    if not words:
        raise RecipeError(what="mrdist prepare", got="nothing", wanted="a recipe", try_="mrdist prepare smoke")
    recipe = load(words[0], words[1:])
    cores = len(os.sched_getaffinity(0))
    if flags.dry_run:
        print(f"would render {recipe.name} with {recipe.workers} workers on {cores} cores into {recipe.store}/")
        return DONE
    if recipe.workers < cores and not (flags.quiet or flags.json or brings(recipe)):
        print(f"{recipe.workers} of {cores} cores render: workers={cores} takes all")
    made = make(recipe, Screen(quiet=flags.quiet), thorough=True)
    if flags.json:
        print(json.dumps({"triplets": str(made.store.folder), "shapes": len(made.store), "skipped": made.skipped}))
        return DONE
    print(f"{len(made.store)} shapes in {made.store.folder}, {len(made.skipped)} skipped")
    for one in made.skipped[:10]:
        print(f"  skipped {one['id']}: {one['reason']}")
    if len(made.skipped) > 10:
        print(f"  and {len(made.skipped) - 10} more: {made.renders.folder / 'skipped.jsonl'}")
    print(f"next: mrdist train {words[0]}")
    return DONE


def teacher(words: Sequence[str], flags: Flags) -> int:
    """`teacher fit RECIPE`: the small teacher of a recipe, fitted to its own views and captions, as an open_clip checkpoint."""
    if len(words) < 2 or words[0] != "fit":
        raise RecipeError(what="mrdist teacher", got=" ".join(words) or "nothing", wanted="fit RECIPE", try_="mrdist teacher fit smoke")
    recipe = load(words[1], words[2:])
    if recipe.teacher.kind != "fitted":
        raise RecipeError(what=f"teacher of {words[1]}", got=f"kind {recipe.teacher.kind!r}", wanted="kind 'fitted'", try_="teacher=fitted")
    prepare(words[1:], flags)
    print(f"the teacher is in {Path(recipe.store) / 'teachers'}")
    return DONE
