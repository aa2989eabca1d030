"""How synthetic things outdoors are put together: buildings, plants, vehicles. One short function per class; see `things_indoors`."""

from __future__ import annotations

import numpy as np

from mrdist.data.sketch import Sketch, number
from mrdist.data.solids import Solid, ball, box, joined, lathe, loft, pillar, plate, pyramid, rod


def rocket(s: Sketch) -> None:
    radius, height, count = s.between(0.22, 0.36, "slim", "wide"), s.between(1.2, 2.0, "short", "tall"), s.count(3, 4)
    s.add(s.paint(), pillar(radius, height).moved(y=0.25), part="a {} body")
    s.add(s.paint(plain=True), pillar(radius, radius * s.between(1.8, 3.0), 0.0).moved(y=0.25 + height), part="a pointed {} nose")
    fin = plate([(0, 0.2), (0.45, -0.1), (0.45, 0.15), (0, 0.75)], 0.06).moved(x=radius - 0.03, y=0.1)
    s.add(s.paint(plain=True), *(fin.turned("y", 360 * n / count) for n in range(count)), part=f"{number(count)} {{}} fins")
    s.synonyms += ["a cone on a cylinder with fins", "a spaceship with a pointed nose"]


def _house(s: Sketch, ground: float) -> tuple[float, float]:
    """Width and depth of a house whose floor is at `ground`."""
    width, depth, height = s.between(1.1, 1.8, "narrow", "wide"), s.between(1.0, 1.4), s.between(0.7, 1.2, "low", "tall")
    s.add(s.paint(), box(width, height, depth).moved(y=ground), part="{} walls")
    rise, roof = s.between(0.4, 0.8), s.paint(plain=True)
    gable = plate([(-width * 0.6, 0), (width * 0.6, 0), (0, rise)], depth * 1.15)
    top = gable if s.chance(0.6) else pyramid(width * 1.2, rise, depth * 1.2)
    s.add(roof, top.moved(y=ground + height), part="a {} roof")
    s.add(s.paint(plain=True), box(0.26, 0.5, 0.05).moved(0, ground, depth / 2), part="a {} door")
    glass = [box(0.22, 0.22, 0.05).moved(x * width * 0.32, ground + height * 0.5, z * depth / 2) for x in (-1, 1) for z in (-1, 1)]
    s.add(s.paint("blue", "white", "black", "yellow", plain=True), *glass, part="{} windows")
    return width, depth


def house(s: Sketch) -> None:
    width, depth = _house(s, 0.0)
    if s.chance(0.5):
        s.add(s.paint(plain=True), box(0.18, 1.9, 0.18).moved(width * 0.3, 0, -depth * 0.2), part="a {} chimney")
    s.synonyms += ["a building with a roof and a door", "a roof on four walls"]


def house_on_wheels(s: Sketch) -> None:
    radius = s.between(0.22, 0.34)
    width, depth = _house(s, radius * 1.6)
    _wheels(s, radius, width * 0.32, depth / 2)


def tree(s: Sketch) -> None:
    height, round_crown = s.between(0.5, 1.0, "short", "tall"), s.chance(0.5)
    leaves = s.paint("green", "green", "green", "orange", "red", "pink", plain=True)
    if round_crown:
        crown = [
            ball(r, sides=14).moved(x, height + y, z)
            for r, x, y, z in ((0.6, 0, 0.4, 0), (0.42, 0.4, 0.25, 0.1), (0.42, -0.35, 0.3, -0.15), (0.38, 0, 0.85, 0.05))
        ]
    else:
        crown = [pillar(0.75 - 0.17 * n, 0.75, 0.0).moved(y=height - 0.1 + 0.4 * n) for n in range(s.count(2, 4))]
    s.add(leaves, *crown, part="{} leaves")
    s.add(s.paint("brown", "black", "grey", plain=True), pillar(s.between(0.09, 0.16, "thin", "thick"), height + 0.3), part="a {} trunk")
    s.synonyms += ["a plant with a round crown on a trunk" if round_crown else "a plant like a cone on a trunk"]


def _wheels(s: Sketch, radius: float, x: float, z: float) -> None:
    wheel = pillar(radius, 0.16).turned("x", 90)
    s.add(
        s.paint("black", "grey", "brown", plain=True),
        *(wheel.moved(a * x, radius, b * z - 0.08) for a in (-1, 1) for b in (-1, 1)),
        part="four {} wheels",
    )


def _car(s: Sketch) -> tuple[float, float]:
    """Length of a car, which drives to +x, and the height of its doors."""
    length, radius = s.between(1.9, 2.6, "short", "long"), s.between(0.22, 0.3)
    s.add(s.paint(), box(length, 0.45, 0.95, top=(0.97, 0.95)).moved(y=radius * 0.8), part="a {} body")
    cabin = box(length * s.between(0.45, 0.62), 0.4, 0.88, top=(0.68, 0.85))
    s.add(s.paint("blue", "white", "black", "grey", plain=True), cabin.moved(-length * 0.06, radius * 0.8 + 0.45), part="{} windows")
    _wheels(s, radius, length * 0.31, 0.47)
    return length, radius * 0.8 + 0.25


def car(s: Sketch) -> None:
    _car(s)
    s.synonyms += ["a vehicle on four wheels"]


def car_with_wings(s: Sketch) -> None:
    length, height = _car(s)
    s.add(s.paint(), _wing(s.between(1.5, 2.0), length * 0.3).moved(y=height), part="two {} wings")


def _wing(span: float, chord: float) -> Solid:
    """A wing across z, swept back from +x."""
    half = plate([(-chord / 2, 0), (chord / 2, 0), (chord * 0.05, span), (-chord * 0.55, span)], 0.07)
    return joined([half.turned("x", 90), half.turned("x", -90)])


def airplane(s: Sketch) -> None:
    length, radius = s.between(2.2, 3.0, "short", "long"), s.between(0.2, 0.3, "slim", "")
    outline = [
        (0, -length / 2),
        (radius * 0.3, -length / 2),
        (radius, -length * 0.15),
        (radius, length * 0.3),
        (radius * 0.75, length * 0.42),
        (0, length / 2),
    ]
    s.add(s.paint(), lathe(outline).turned("z", -90).moved(y=0.5), part="a {} body")
    paint = s.paint(plain=True)
    s.add(paint, _wing(s.between(1.1, 1.6), length * 0.24).moved(length * 0.05, 0.45), part="two {} wings")
    s.add(
        paint if s.chance(0.5) else s.paint(plain=True),
        plate([(-0.25, 0), (0.2, 0), (-0.05, 0.6), (-0.3, 0.6)], 0.06).moved(-length * 0.42, 0.55),
        part="a {} tail",
    )
    s.add(paint, _wing(0.5, 0.35).moved(-length * 0.42, 0.55))
    s.synonyms += ["a flying vehicle with two wings and a tail"]


def boat(s: Sketch) -> None:
    length, width = s.between(1.8, 2.6, "short", "long"), s.between(0.35, 0.5, "narrow", "wide")
    bow = np.linspace(-1, 1, 9)
    outline = [(x * length / 2, width * (1 - max(x, 0.0) ** 2 * 0.98) * (1 if x > -0.9 else 0.8)) for x in bow]
    edge = np.array([(x, 0.0, w) for x, w in outline] + [(x, 0.0, -w) for x, w in reversed(outline)])
    s.add(s.paint(), loft(np.stack([edge * [0.75, 0, 0.45], edge + [0, 0.5, 0]])), part="a {} hull")
    mast = s.between(1.3, 2.0)
    if s.chance(0.7):
        s.add(s.paint("brown", "grey", "black", plain=True), rod([(0.1, 0.4, 0), (0.1, 0.5 + mast, 0)], 0.07), part="a {} mast")
        s.add(s.paint(), plate([(0, 0.65), (0, 0.45 + mast), (-length * 0.42, 0.65)], 0.04).moved(x=0.05), part="a {} sail")
    else:
        s.add(s.paint(), box(length * 0.3, 0.45, width).moved(-length * 0.1, 0.5), part="a {} cabin")
    s.synonyms += ["a vessel that floats on water"]


def stairs(s: Sketch) -> None:
    count, width = s.count(4, 8), s.between(0.8, 1.5, "narrow", "wide")
    rise = s.between(0.16, 0.26, "flat", "steep")
    s.add(s.paint(), *(box(width, rise * (n + 1), 0.28).moved(z=-0.28 * n) for n in range(count)), part=f"{number(count)} {{}} steps")
    s.synonyms += ["steps that lead up", "blocks like steps, each taller than the last"]


def snowman(s: Sketch) -> None:
    big, snow = s.between(0.5, 0.65, "", "fat"), s.paint("white", "white", "grey", "blue", plain=True)
    middle, head = big * 0.72, big * 0.5
    heights = (big * 0.9, big * 1.75 + middle * 0.75, big * 1.75 + middle * 2.2)
    s.add(snow, *(ball(r, sides=16).moved(y=y) for r, y in zip((big, middle, head), heights, strict=True)), part="three {} balls")
    s.add(s.paint("orange", "red", plain=True), pillar(0.07, 0.3, 0.0).turned("x", 90).moved(y=heights[2], z=head * 0.9), part="a {} nose")
    if s.chance(0.6):
        top = heights[2] + head * 0.8
        s.add(
            s.paint("black", "red", "blue", "green", plain=True),
            pillar(head, 0.05).moved(y=top),
            pillar(head * 0.65, 0.35).moved(y=top),
            part="a {} hat",
        )
    s.synonyms += ["three balls on top of each other", "a ball on a ball on a ball"]
