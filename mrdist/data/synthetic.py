"""The embedded data: captioned coloured meshes of parametric things, made from nothing but a seed.

The classes of the split `unseen` never occur in training. Each of their names is made of words that training captions use for other
things, with the same meaning: there are sofas with arms and chairs without, mugs with a handle and bottles without, airplanes with wings
and cars without. Whoever tells "a chair with arms" from "a bottle with a handle" has learnt parts, not a list of names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrdist.data import things_indoors as indoors
from mrdist.data import things_outdoors as outdoors
from mrdist.data.sketch import Sketch, with_article

VERSION = 1
"""Counts up when the same configuration would give other meshes or captions."""


@dataclass(frozen=True)
class Class:
    """What a kind of thing is called and how one is made."""

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
    Class("bottle with a handle", indoors.bottle_with_handle, seen=False),  # bottle, "a handle" [mug, hammer]
    Class("bed with a ladder", indoors.bed_with_ladder, seen=False),  # bed, ladder
    Class("table with an umbrella", indoors.table_with_umbrella, seen=False),  # table, umbrella
    Class("car with wings", outdoors.car_with_wings, seen=False),  # car, "two wings" [airplane]
    Class("house on wheels", outdoors.house_on_wheels, seen=False),  # house, "four wheels" [car]
    Class("sphere on a cube", indoors.sphere_on_cube, seen=False),  # sphere, cube, "on" [tree, snowman]
    Class("cone on a cylinder", indoors.cone_on_cylinder, seen=False),  # cone, cylinder, "on" [rocket, tree]
)


def draw(kind: Class, split: str, number: int, seed: int) -> Sketch:
    """One shape of a class; depends on nothing but its arguments."""
    name = f"{kind.name}/{split}/{number}/{seed}"
    s = Sketch(np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")))
    kind.make(s)
    return s


def captions(kind: Class, s: Sketch) -> tuple[str, ...]:
    """What can be said of a shape: all of it true, the plainest first."""
    assert s.main is not None
    plural = kind.name == "stairs"
    a = (lambda words: words) if plural else (lambda words: with_article(f"a {words}"))
    size = [s.adjectives[int(s.random.integers(len(s.adjectives)))]] if s.adjectives else []
    colour = s.main.words
    parts = [s.parts[n] for n in s.random.permutation(len(s.parts))]
    said = [a(f"{colour} {kind.name}"), a(" ".join([*size, colour, kind.name]))]
    joint = " and " if " with " in kind.name else " with "
    if parts:
        said.append(a(f"{kind.name}{joint}{parts[0]}"))
        said.append(a(" ".join([*size, kind.name])) + joint + " and ".join(parts[:2]))
    if len(parts) > 2:
        said.append(a(f"{colour} {kind.name}") + joint + ", ".join(parts[:-1]) + " and " + parts[-1])
    if s.synonyms:
        synonym = s.synonyms[int(s.random.integers(len(s.synonyms)))]
        said.append(f"{a(f'{colour} {kind.name}')}, {synonym}")
    return tuple(dict.fromkeys(said))
