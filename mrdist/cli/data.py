"""`mrdist data`: a picture of what teacher and student will see, and other projects' data as a store of ours."""

from __future__ import annotations

import json
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
    """`data sample RECIPE [key=value ...]` or `data convert PROJECT FOLDER [OUT] [key=value ...]`."""
    if len(words) > 1 and words[0] == "sample":
        return _sampled(words[1:], flags)
    if len(words) > 2 and words[0] == "convert":
        return _converted(words[1:], flags)
    got, wanted = " ".join(words) or "nothing", "sample RECIPE, or convert PROJECT FOLDER"
    raise RecipeError(what="mrdist data", got=got, wanted=wanted, try_="mrdist data sample smoke")


def _sampled(words: Sequence[str], flags: Flags) -> int:
    """Some shapes, their views and their clouds; one look shows a wrong axis or lost colours."""
    from PIL import Image

    recipe = load(words[0], words[1:])
    out = Path(f"sample-{recipe.name.replace('/', '-')}.png")
    if flags.dry_run:
        print(f"would draw {_SHAPES} shapes of {recipe.name} into {out}")
        return DONE
    Image.fromarray(sample(recipe, Screen(quiet=flags.quiet))).save(out)
    print(f"views and clouds of {_SHAPES} shapes -> {out}")
    return DONE


def _converted(words: Sequence[str], flags: Flags) -> int:
    """A set of OpenShape or Uni3D as a store; a re-run does only what is missing."""
    from mrdist.data.converting import convert, skipped
    from mrdist.data.sources.projects import SETS, source

    given = dict(word.split("=", 1) for word in words if "=" in word)
    project, folder, *rest = [word for word in words if "=" not in word]
    workers = given.pop("workers", "1")
    if len(rest) > 1 or not workers.isdigit() or int(workers) < 1:
        raise RecipeError(what="mrdist data convert", got=" ".join(words), wanted="PROJECT FOLDER [OUT] [workers=N]", try_="workers=4")
    found = source(project, Path(folder), given)
    out = Path(rest[0] if rest else f"store/{project}-{given.get('set', SETS[project][0]).replace('/', '-')}")
    shapes = len(found.entries())
    bill = f"{shapes} shapes of {found.contract()['from']} -> {out}, about {shapes * found.points * 9 / 1e9:.1f} GB and their features"
    if flags.dry_run:
        print(f"would convert {bill}")
        return DONE
    if not flags.quiet:
        print(bill)
    made = convert(found, out, workers=int(workers), progress=Screen(quiet=flags.quiet))
    lost = list(skipped(out))
    counts = {split: len(made.store.indices(split)) for split in made.store.splits}
    if flags.json:
        about = {"store": str(out), "shapes": counts, "width": made.store.width, "teacher": made.teacher, "skipped": len(lost)}
        print(json.dumps(about))
        return DONE
    print(f"{', '.join(f'{count} {split}' for split, count in counts.items())} in {out}, {len(lost)} skipped")
    for one in lost[:10]:
        print(f"  skipped {one['id']}: {one['reason']}")
    if len(lost) > 10:
        print(f"  and {len(lost) - 10} more: {out / 'skipped.jsonl'}")
    trained = f"mrdist train RECIPE data=converted data.path={out} teacher=precomputed"
    print(f"next: {trained if 'train' in counts else f'mrdist evaluate MODEL data=converted data.path={out}'}")
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
