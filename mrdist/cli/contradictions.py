"""What in a recipe contradicts itself: found before anything is spent."""

from __future__ import annotations

from mrdist.errors import MrdistError, RecipeError
from mrdist.recipe import Recipe


def contradictions(recipe: Recipe) -> list[MrdistError]:
    """Every contradiction between the parts of a recipe; empty if there is none."""
    found: list[MrdistError] = []
    needs: frozenset[str] = getattr(recipe.objective, "needs", frozenset())
    # Teachers of plugins need not say what they supply; then only opening them tells.
    supplies: frozenset[str] = getattr(recipe.teacher, "supplies", needs)
    if lacking := sorted(needs - supplies):
        found.append(
            RecipeError(
                what=f"objective {recipe.objective.kind}",
                got=f"a teacher that supplies {', '.join(sorted(supplies))}",
                wanted=", ".join(lacking),
                try_="another teacher=...",
            )
        )
    if recipe.watch.evaluate_every and recipe.watch.evaluate_every > recipe.steps:
        found.append(
            RecipeError(
                what="watch.evaluate_every",
                got=recipe.watch.evaluate_every,
                wanted=f"at most steps={recipe.steps}",
                try_="watch.evaluate_every=0 for the end only",
            )
        )
    if recipe.optim.warmup >= recipe.steps:
        found.append(
            RecipeError(
                what="optim.warmup",
                got=recipe.optim.warmup,
                wanted=f"less than steps={recipe.steps}",
                try_=f"optim.warmup={max(recipe.steps // 10, 0)}",
            )
        )
    return found
