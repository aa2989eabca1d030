"""`mrdist data sample`: a picture of what teacher and student will see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from mrdist.cli.main import DONE, Flags
from mrdist.cli.screen import Screen
from mrdist.errors import DataError, RecipeError
from mrdist.progress import Progress
from mrdist.recipe import Recipe, load
from mrdist.shapes import Bytes

_SHAPES, _VIEWS = 8, 6


def data(words: Sequence[str], flags: Flags) -> int:
    """`data sample RECIPE [key=value ...]`: some shapes, their views and their clouds; one look shows a wrong axis or lost colours."""
    if len(words) < 2 or words[0] != "sample":
        raise RecipeError(what="mrdist data", got=" ".join(words) or "nothing", wanted="sample RECIPE", try_="mrdist data sample smoke")
    from PIL import Image

    recipe = load(words[1], words[2:])
    out = Path(f"sample-{recipe.name.replace('/', '-')}.png")
    if flags.dry_run:
        print(f"would draw {_SHAPES} shapes of {recipe.name} into {out}")
        return DONE
    Image.fromarray(sample(recipe, Screen(quiet=flags.quiet))).save(out)
    print(f"views and clouds of {_SHAPES} shapes -> {out}")
    return DONE


def sample(recipe: Recipe, progress: Progress) -> Bytes:
    """A sheet `[H, W, 3]` of shapes from all over the catalogue: some views, then the cloud; captions above.

    Raises:
        DataError: none of the shapes can be drawn.
    """
    from mrdist.data.drawing import ShapeRenderer
    from mrdist.data.pictures import cloud, decode, sheet
    from mrdist.data.shards import split
    from mrdist.prepare import DataConfig

    catalog = cast(DataConfig, recipe.data).open(Path(recipe.store), progress)
    chosen = catalog.shapes[:: max(1, len(catalog.shapes) // _SHAPES)][:_SHAPES]
    rows, labels = [], []
    with ShapeRenderer(catalog.root, views=recipe.views, limits=recipe.limits, points=recipe.points) as renderer:
        for number, shape in enumerate(chosen, 1):
            outcome = renderer.draw(shape)
            if outcome.ok:
                pictures = split(outcome.arrays["jpeg"], outcome.arrays["jpeg_at"])[:_VIEWS]
                xyz, rgb = outcome.arrays["xyz"].astype(np.float32), np.divide(outcome.arrays["rgb"], 255, dtype=np.float32)
                rows.append([*map(decode, pictures), cloud(xyz, rgb, pixels=recipe.views.pixels)])
                labels.append(f"{shape.id}: {' | '.join(shape.captions[:3])}")
            progress("draw", number, len(chosen))
    if not rows:
        raise DataError(what=recipe.name, got="no shape that can be drawn", wanted="one", try_="mrdist prepare, and read skipped.jsonl")
    return sheet(rows, labels)
