"""What trainers eat: how many renderers and teachers keep them busy while views are drawn as they train, and what lies on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from mrdist.data.render import cameras
from mrdist.data.rounds import rounds
from mrdist.recipe import Recipe
from mrdist.site import Allocation
from mrdist.training.costs import Census, Engine, Item


class KnownTeacher(NamedTuple):
    """A model of open_clip, from docs/model_profile.csv of its repository; the width of EVA02-E-14-plus is its own file's."""

    width: int  # E
    image: float  # Gflop per picture
    text: float  # Gflop per caption


TEACHERS = {
    "ViT-B-32": KnownTeacher(512, 8.82, 5.96),
    "ViT-L-14": KnownTeacher(768, 162.03, 13.3),
    "ViT-H-14": KnownTeacher(1024, 334.59, 47.09),
    "ViT-bigG-14": KnownTeacher(1280, 967.5, 97.86),
    "EVA02-E-14-plus": KnownTeacher(1024, 2264.33, 97.86),
}


@dataclass(frozen=True)
class Kitchen:
    """What renderers and teachers are assumed to reach."""

    views_per_core: float = 86.6
    """Views per second and core of 224 x 224 with 2 x 2 samples, mesh of 100k faces and a texture: measured, docs/results.md (293 with
    5k faces, 25.5 with 800k)."""
    pixels_cost: float = 1.2
    """A view n times as wide takes n ** this as long: 86.6 and 32.2 views per second at 224 and 512 pixels, docs/results.md."""
    teacher_share: float = 0.4
    """Share of a device's matrix rate that a frozen teacher reaches in bfloat16: assumed; not measured."""
    captions: float = 2.0
    """Captions per shape: assumed."""
    view_bytes: float = 8700.0
    """Bytes of a stored view of 224 x 224 at quality 95: measured on the synthetic shapes."""


@dataclass(frozen=True)
class Feed:
    """What must arrive per second, and who makes it."""

    shapes: float  # per second, that the trainers take
    views: float  # per second
    renderers: int  # cores
    teachers: float | None  # devices; None: nobody knows this teacher's cost
    teacher: str


def teacher_width(recipe: Recipe) -> int | None:
    """E, if the recipe, the table above, or data that bring embeddings say it."""
    known = TEACHERS.get(getattr(recipe.teacher, "model", ""))
    return known.width if known else getattr(recipe.teacher, "width", None) or getattr(recipe.data, "width", None)


def feed(recipe: Recipe, allocation: Allocation, shapes: float, kitchen: Kitchen) -> Feed:
    """Who keeps trainers busy that take so many shapes per second, none of which has been drawn before."""
    views = shapes * len(cameras(recipe.views))
    rate = kitchen.views_per_core * (224 / recipe.views.pixels) ** kitchen.pixels_cost
    name = getattr(recipe.teacher, "model", recipe.teacher.kind)
    known, teachers = TEACHERS.get(name), None
    if known is not None:
        flops = 1e9 * (views * known.image + shapes * kitchen.captions * known.text)
        teachers = flops / (1e12 * kitchen.teacher_share * allocation.device.bf16)
    return Feed(shapes, views, math.ceil(views / rate), teachers, name)


def disk(found: Census, recipe: Recipe, width: int, shapes: int, kitchen: Kitchen) -> list[Item]:
    """What a run leaves on disk; of renders and triplets for so many shapes, or for 1,000 if nobody said how many.

    Every round of drawing is kept (`redraw`), for other runs and for those who go on: how many there are is known if `shapes` is.
    """
    drawn = rounds(steps=recipe.steps, per_epoch=int(shapes * recipe.fraction) // recipe.batch, every=recipe.redraw)
    of = f"of {shapes or 1000:,} shapes" + (f", {f'{drawn:,} rounds' if shapes else 'each round'}" if recipe.redraw else "")
    views, count = len(cameras(recipe.views)), drawn * (shapes or 1000)
    cloud, n = recipe.points * (3 * 2 + 3), Engine.of(recipe).number
    picture = kitchen.view_bytes * (recipe.views.pixels / 224) ** 2
    kept = recipe.watch.keep + 2
    state = n * (found.parameters + 2 * found.learnt + (found.exported if recipe.optim.ema > 0 else 0))
    return [
        Item("renders", count * (cloud + views * picture), of),
        Item("triplets", count * (cloud + 2 * width * (views + kitchen.captions)), of),
        Item("checkpoints", kept * state, f"{kept} of {state / 1e6:,.0f} MB: {recipe.watch.keep} kept, the best, and one being written"),
    ]
