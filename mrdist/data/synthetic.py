"""The embedded data: captioned coloured meshes of parametric things, made from nothing but a seed.

The classes of the split `unseen` never occur in training. Each of their names is made of words that training captions use for other
things, with the same meaning: there are sofas with arms and chairs without, mugs with a handle and bottles without, airplanes with wings
and cars without, and a sphere stands on a cylinder, but never on a cube. Whoever tells a chair with arms from a bottle with a handle has
learnt parts, not a list of names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrdist.data import things_indoors as indoors
from mrdist.data import things_outdoors as outdoors
from mrdist.data.catalog import SPLITS, Catalog, made_once
from mrdist.data.sketch import Sketch, with_article
from mrdist.errors import RecipeError
from mrdist.kinds import Part
from mrdist.progress import Progress, silent
from mrdist.recipe import fingerprint
from mrdist.shapes import Shape

VERSION = 1
"""Counts up when the same configuration would give other meshes or captions."""


@dataclass(frozen=True)
class Class:
    """What a kind of thing is called, how one is made, and whether training sees any."""

    name: str
    make: Callable[[Sketch], None]
    seen: bool = True


CLASSES = (
    # solids
    Class("sphere", indoors.sphere),
    Class("cube", indoors.cube),
    Class("cone", indoors.cone),
    Class("cylinder", indoors.cylinder),
    Class("ring", indoors.torus),
    Class("pyramid", indoors.square_pyramid),
    Class("sphere on a cylinder", indoors.stack("sphere", "cylinder")),
    Class("cone on a cube", indoors.stack("cone", "cube")),
    # furniture
    Class("chair", indoors.chair),
    Class("stool", indoors.stool),
    Class("table", indoors.table),
    Class("lamp", indoors.lamp),
    Class("bookshelf", indoors.bookshelf),
    Class("bed", indoors.bed),
    Class("sofa", indoors.sofa),
    # vessels and tools
    Class("mug", indoors.mug),
    Class("bottle", indoors.bottle),
    Class("bowl", indoors.bowl),
    Class("ladder", indoors.ladder),
    Class("umbrella", indoors.umbrella),
    Class("hammer", indoors.hammer),
    # outdoors
    Class("rocket", outdoors.rocket),
    Class("house", outdoors.house),
    Class("tree", outdoors.tree),
    Class("car", outdoors.car),
    Class("airplane", outdoors.airplane),
    Class("boat", outdoors.boat),
    Class("stairs", outdoors.stairs),
    Class("snowman", outdoors.snowman),
    # never in training; their words come from the classes in brackets
    Class("round table", indoors.round_table, seen=False),  # "a round seat" [stool, lamp], table
    Class("chair with arms", indoors.chair_with_arms, seen=False),  # chair, "two arms" [sofa]
    Class("bottle with a handle", indoors.bottle_with_handle, seen=False),  # bottle, "a handle" [mug, hammer, umbrella]
    Class("bed with a ladder", indoors.bed_with_ladder, seen=False),  # bed, ladder
    Class("table with an umbrella", indoors.table_with_umbrella, seen=False),  # table, umbrella
    Class("car with wings", outdoors.car_with_wings, seen=False),  # car, "two wings" [airplane]
    Class("house on wheels", outdoors.house_on_wheels, seen=False),  # house, "four wheels" [car], "on" [tree, stacks]
    Class("sphere on a cube", indoors.stack("sphere", "cube"), seen=False),  # [sphere on a cylinder, cone on a cube]
    Class("cone on a cylinder", indoors.stack("cone", "cylinder"), seen=False),  # [the same]
)


@dataclass(frozen=True)
class SyntheticConfig(Part):
    """`data: {kind: synthetic}`: how many shapes of every class, and which."""

    kind: str = "synthetic"
    train: int = 30  # shapes of every seen class
    val: int = 2
    test: int = 8
    unseen: int = 10  # shapes of every unseen class
    seed: int = 0

    def open(self, store: Path, progress: Progress = silent) -> Catalog:
        """The catalogue, written into `store` the first time, as .glb files."""
        return made_once(store / f"synthetic-{fingerprint(VERSION, self)}", lambda folder: list(self._written(folder, progress)))

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that have shapes."""
        return tuple(name for name in SPLITS if getattr(self, name))

    def check(self, recipe: object) -> None:
        """Refuse counts that are not counts.

        Raises:
            RecipeError: fewer than one shape for training, or a negative count.
        """
        for name, least in (("train", 1), ("val", 0), ("test", 0), ("unseen", 0)):
            if getattr(self, name) < least:
                raise RecipeError(what=f"data.{name}", got=getattr(self, name), wanted=f"at least {least}", try_=f"data.{name}={least}")

    def _written(self, folder: Path, progress: Progress) -> Iterator[Shape]:
        wanted = [
            (kind, split, number)
            for kind in CLASSES
            for split in (("train", "val", "test") if kind.seen else ("unseen",))
            for number in range(getattr(self, split))
        ]
        for done, (kind, split, number) in enumerate(wanted):
            progress("make shapes", done, len(wanted))
            sketch = draw(kind, split, number, self.seed)
            data, place = sketch.file(), folder / kind.name.replace(" ", "-")
            place.mkdir(exist_ok=True)
            path = place / f"{split}-{number:04d}.glb"
            path.write_bytes(data)
            yield Shape(
                id=f"{place.name}/{split}-{number:04d}",
                mesh=path,
                captions=captions(kind, sketch),
                category=kind.name,
                up="y",
                split=split,
                source="mrdist synthetic",
                licence="CC0",
                sha256=hashlib.sha256(data).hexdigest(),
            )
        progress("make shapes", len(wanted), len(wanted))


def draw(kind: Class, split: str, number: int, seed: int) -> Sketch:
    """One shape of a class; depends on its arguments only, so that more shapes, or other classes, change none."""
    name = f"{kind.name}/{split}/{number}/{seed}"
    sketch = Sketch(np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")))
    kind.make(sketch)
    return sketch


def captions(kind: Class, s: Sketch) -> tuple[str, ...]:
    """What can be said of a shape: all of it true, the plainest first."""
    if s.sentences:
        return (_a(kind.name), *s.sentences)
    main, named, size = s.main(), set(kind.name.split()), s.adjectives[:]
    colour = [main.words] if main else []
    parts = [part for part in s.parts if part.split()[-1] not in named]  # a bottle with a handle needs no second one
    s.random.shuffle(size)
    s.random.shuffle(parts)
    plain, sized, coloured = _a(kind.name), _a(*size[:1], kind.name), _a(*colour, kind.name)
    joint = " and " if " with " in kind.name else " with "
    said = [coloured, _a(*size[:1], *colour, kind.name)]
    if parts:
        said += [f"{plain}{joint}{parts[0]}", f"{sized}{joint}{_listed(parts[:2])}"]
    if len(parts) > 2:
        said += [f"{coloured}{joint}{_listed(parts)}"]
    if s.synonyms:
        said += [f"{coloured}, {s.synonyms[s.count(0, len(s.synonyms) - 1)]}"]
    return tuple(dict.fromkeys(said))


def _a(*words: str) -> str:
    """Words with their article; stairs have none."""
    return with_article(" ".join(words if words[-1] == "stairs" else ("a", *words)))


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
