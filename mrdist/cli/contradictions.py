"""What in a recipe contradicts itself, or means nothing: found before anything is spent, on any machine."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from mrdist.errors import MrdistError, RecipeError
from mrdist.recipe import Recipe


def contradictions(recipe: Recipe) -> list[MrdistError]:
    """Everything in a recipe that cannot be, on whatever machine; empty if there is nothing. Its own values first, then its parts."""
    return [*_names(recipe), *_measuring(recipe), *_schedules(recipe), *_teaching(recipe)]


def _names(recipe: Recipe) -> Iterator[MrdistError]:
    from mrdist.data.render import cameras
    from mrdist.ranks import check_device

    try:
        check_device(recipe.device)
    except MrdistError as wrong:
        yield wrong
    try:
        cameras(recipe.views)
    except MrdistError as wrong:
        yield wrong


def _measuring(recipe: Recipe) -> Iterator[MrdistError]:
    from mrdist.evaluation.prompts import in_file, templates

    if not recipe.evaluate.splits:
        yield RecipeError(what="evaluate.splits", got="none", wanted="at least one", try_="evaluate.splits=[test]")
    if recipe.evaluate.batch < 1:
        yield RecipeError(what="evaluate.batch", got=recipe.evaluate.batch, wanted="at least 1", try_="evaluate.batch=64")
    if not in_file(recipe.evaluate.templates):
        try:
            templates(recipe.evaluate.templates)
        except MrdistError as wrong:
            yield wrong
    # Data that do not say which splits they can have are asked when they are opened.
    can: tuple[str, ...] = getattr(recipe.data, "splits", recipe.measured)
    wanted = f"one of {', '.join(can)}, which data of kind {recipe.data.kind} can have"
    for split in recipe.evaluate.splits:
        if split not in can:
            near = difflib.get_close_matches(split, can, n=1, cutoff=0.3) or can[-1:]
            yield RecipeError(what="evaluate.splits", got=repr(split), wanted=wanted, try_=f"evaluate.splits=[{near[0]}]")
    if recipe.watch.evaluate_every and "val" not in can:
        got = f"{recipe.watch.evaluate_every}, and no shapes of split 'val'"
        try_ = "watch.evaluate_every=0 for the end only, or a larger data.val"
        yield RecipeError(what="watch.evaluate_every", got=got, wanted="shapes to watch", try_=try_)


def _schedules(recipe: Recipe) -> Iterator[MrdistError]:
    if recipe.watch.evaluate_every and recipe.watch.evaluate_every > recipe.steps:
        yield RecipeError(
            what="watch.evaluate_every",
            got=recipe.watch.evaluate_every,
            wanted=f"at most steps={recipe.steps}",
            try_="watch.evaluate_every=0 for the end only",
        )
    if recipe.optim.warmup >= recipe.steps:
        yield RecipeError(
            what="optim.warmup",
            got=recipe.optim.warmup,
            wanted=f"less than steps={recipe.steps}",
            try_=f"optim.warmup={max(recipe.steps // 10, 0)}",
        )


def _teaching(recipe: Recipe) -> Iterator[MrdistError]:
    needs: frozenset[str] = getattr(recipe.objective, "needs", frozenset())
    # Teachers of plugins need not say what they supply; then only opening them tells.
    supplies: frozenset[str] = getattr(recipe.teacher, "supplies", needs)
    if lacking := sorted(needs - supplies):
        yield RecipeError(
            what=f"objective {recipe.objective.kind}",
            got=f"a teacher that supplies {', '.join(sorted(supplies))}",
            wanted=", ".join(lacking),
            try_="another teacher=...",
        )
