"""`python -m mrdist_cluster train`: a run on a Ray cluster, from meshes to figures; whoever dies, it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from mrdist.cli.evaluate import is_run
from mrdist.cli.lacking import refuse
from mrdist.cli.main import DONE, STOPPED, Flags
from mrdist.errors import RecipeError
from mrdist.progress import duration
from mrdist.recipe import Recipe, to_yaml
from mrdist_cluster.begin import alone, is_prepared, meant
from mrdist_cluster.status import Follower, Heard

PLACED = 90.0
"""Seconds after which the pipeline begins, even if the ranks have no place yet."""


def train(words: Sequence[str], flags: Flags) -> int:
    """Start renderers, teachers and ranks as far as they are needed, and again when they die, until the run is done or asked to stop."""
    if not words:
        raise RecipeError(what="mrdist_cluster train", got="nothing", wanted="a recipe or a run folder", try_="train smoke")
    recipe, run = meant(words)
    refuse(recipe, run if is_run(words[0]) else None)
    if flags.dry_run:
        print(to_yaml(recipe))
        return DONE
    if (run / "done").is_file() and len(words) == 1:
        print(f"{run} is done")
        return DONE
    return _driven(recipe, run, quiet=flags.quiet)


def _driven(recipe: Recipe, run: Path, *, quiet: bool) -> int:
    from mrdist.ranks import Ranks
    from mrdist.training import folder
    from mrdist_cluster.book import plan
    from mrdist_cluster.drive import drive, taken
    from mrdist_cluster.pipeline import run_pipeline
    from mrdist_cluster.ranks import placed
    from mrdist_cluster.ranks import train as train_ranks
    from mrdist_cluster.settings import joined, nodes

    with joined(), ExitStack() as only:
        prepared = is_prepared(recipe)
        share = plan(recipe, nodes(), prepared=prepared)
        only.enter_context(alone(run))
        folder.enter(run, recipe, Ranks.alone())
        print("\n".join([*share.lines(), f"run       {run}"]), flush=True)
        heard, follower, told = Heard(), Follower(run, recipe), 0

        def fit() -> int:
            try:
                return plan(recipe, nodes(), prepared=prepared).ranks
            except RecipeError:  # of nodes that were there at the beginning
                return 0

        def feed(asked: Callable[[], bool]) -> None:
            nonlocal prepared
            if not prepared:
                placed(within=PLACED)  # ranks need places beside one another; renderers fit anywhere
                run_pipeline(recipe, share, heard, asked=asked, step=lambda: follower.step)
                prepared = True

        def look(ranks: int) -> bool:
            nonlocal told
            words = [follower.line(), heard.line()]
            room = fit()
            saves = follower.left * (1 - ranks / room) if room > ranks > 0 else 0.0
            before, told = told, room if saves else 0
            if told and told != before:
                start = f"all start again, which saves {duration(saves)}" if saves > recipe.pools.regroup else "the next start takes them"
                words.append(f"there is room for {told} ranks by now: {start}")
            if any(words) and not quiet:
                print("   ".join(filter(None, words)), flush=True)
            return saves > recipe.pools.regroup

        seat = {"CPU": share.train.cores, "GPU": share.train.gpus}
        code = drive(run, recipe, fit=fit, train=partial(train_ranks, run, resources=seat), feed=feed, fed=lambda: heard.done, look=look)
    if code == STOPPED:
        print(f"stopped after step {taken(run)} of {recipe.steps}; the same command goes on")
    else:
        print(f"{(run / 'report.md').read_text()}\n{run}\nnext: mrdist embed {run} FILE... up=y · tensorboard --logdir {run / 'board'}")
    return code
