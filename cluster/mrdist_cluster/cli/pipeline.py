"""`mrdist pipeline`: what comes before training, by pools of renderers and teachers on a Ray cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from mrdist.cli.main import DONE, Flags
from mrdist.cli.screen import Screen
from mrdist.errors import RecipeError
from mrdist.recipe import load

USAGE = "RECIPE [key=value ...]"


def pipeline(words: Sequence[str], flags: Flags) -> int:
    """Meshes -> views -> embeddings -> triplets on the cluster of RAY_ADDRESS, or on all of this machine.

    pools.renderers=[1,64]   least and most of them; also pools.teachers, and what each takes: mrdist config explain pools
    --dry-run                the book: who would work on what

    Raises:
        RecipeError: no recipe, or it does not fit on the cluster.
    """
    from mrdist_cluster.book import plan
    from mrdist_cluster.pipeline import run_pipeline
    from mrdist_cluster.settings import here, joined, nodes

    if not words:
        raise RecipeError(what="mrdist pipeline", got="nothing", wanted=USAGE, try_="mrdist pipeline smoke")
    recipe = load(words[0], words[1:])
    if flags.dry_run and "RAY_ADDRESS" not in os.environ:
        print("\n".join(plan(recipe, [here()], training=False).lines()))
        return DONE
    with joined():
        share = plan(recipe, nodes(), training=False)
        if not flags.json:
            print("\n".join(share.lines()), flush=True)
        if flags.dry_run:
            return DONE
        figures = run_pipeline(recipe, share, Screen(quiet=flags.quiet))
    if flags.json:
        print(json.dumps({stage: held.plain() for stage, held in figures.items()}))
        return DONE
    print("\n".join(f"{stage}: {held.line()}" for stage, held in figures.items()) or "nothing was missing")
    print(f"next: mrdist train {words[0]}")
    return DONE
