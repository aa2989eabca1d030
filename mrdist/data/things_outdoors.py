"""How synthetic things outdoors are put together: buildings, plants, vehicles. One short function per class, as in `things_indoors`."""

from __future__ import annotations

import numpy as np

from mrdist.data.sketch import Sketch, number
from mrdist.data.solids import Solid, ball, box, joined, lathe, loft, pillar, plate, pyramid, rod

_SIDES = (-1, 1)


def rocket(s: Sketch) -> None:
    radius, height, count = s.between(0.22, 0.36, "slim", "wide"), s.between(1.2, 2.0, "short", "tall"), s.count(3, 4)
    s.add(s.paint(), pillar(radius, height).moved(y=0.25), part="a {} body")
    s.add(s.paint(plain=True), pillar(radius, radius * s.between(1.8, 3.0), 0.0).moved(y=0.25 + height), part="a pointed {} nose")
    fin = plate([(0, 0.2), (0.45, -0.1), (0.45, 0.15), (0, 0.75)], 0.06).moved(x=radius - 0.03, y=0.1)
    s.add(s.paint(plain=True), *(fin.turned("y", 360 * n / count) for n in range(count)), part=f"{number(count)} {{}} fins")
    s.synonyms += ["a pointed cone on a round body with fins", "a spaceship with a pointed nose"]


def _house(s: Sketch, ground: float) -> tuple[float, float]:
    """Width and depth of a house whose floor is at `ground`."""
    width, depth, height = s.between(1.1, 1.8, "narrow", "wide"), s.between(1.0, 1.4), s.between(0.7, 1.2, "low", "tall")
    s.add(s.paint(), box(width, height, depth).moved(y=ground), part="{} walls")
    rise = s.between(0.4, 0.8)
    gable = plate([(-width * 0.6, 0), (width * 0.6, 0), (0, rise)], depth * 1.15)
    roof = gable if s.chance(0.6) else pyramid(width * 1.2, rise, depth * 1.2)
    s.add(s.paint(plain=True), roof.moved(y=ground + height), part="a {} roof")
    s.add(s.paint(plain=True), box(0.26, 0.5, 0.05).moved(0, ground, depth / 2), part="a {} door")
    pane = box(0.22, 0.22, 0.05).moved(y=ground + height * 0.5)
    panes = [pane.moved(x * width * 0.32, 0, z * depth / 2) for x in _SIDES for z in _SIDES]
    s.add(s.paint("blue", "white", "black", "yellow", plain=True), *panes, part="{} windows")
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
    height, leaves = s.between(0.5, 1.0, "short", "tall"), s.paint("green", "green", "green", "orange", "red", "pink", plain=True)
    if s.chance(0.5):
        balls = ((0.6, 0.0, 0.4, 0.0), (0.42, 0.4, 0.25, 0.1), (0.42, -0.35, 0.3, -0.15), (0.38, 0.0, 0.85, 0.05))
        crown = [ball(radius, sides=14).moved(x, height + y, z) for radius, x, y, z in balls]
        s.synonyms += ["a plant with a round crown on a trunk"]
    else:
        crown = [pillar(0.75 - 0.17 * n, 0.75, 0.0).moved(y=height - 0.1 + 0.4 * n) for n in range(s.count(2, 4))]
        s.synonyms += ["a plant like a cone on a trunk"]
    s.add(leaves, *crown, part="{} leaves")
    trunk = pillar(s.between(0.09, 0.16, "thin", "thick"), height + 0.3)
    s.add(s.paint("brown", "black", "grey", plain=True), trunk, part="a {} trunk")


def _wheels(s: Sketch, radius: float, x: float, z: float) -> None:
    """Four wheels around the points +-x, +-z, on the ground."""
    wheel = pillar(radius, 0.16).turned("x", 90).moved(y=radius, z=-0.08)
    wheels = [wheel.moved(a * x, 0, b * z) for a in _SIDES for b in _SIDES]
    s.add(s.paint("black", "grey", "brown", plain=True), *wheels, part="four {} wheels")


def _car(s: Sketch) -> tuple[float, float]:
    """Length of a car, which drives to +x, and the height of its doors."""
    length, radius = s.between(1.9, 2.6, "short", "long"), s.between(0.22, 0.3)
    floor = radius * 0.8
    s.add(s.paint(), box(length, 0.45, 0.95, top=(0.97, 0.95)).moved(y=floor), part="a {} body")
    cabin = box(length * s.between(0.45, 0.62), 0.4, 0.88, top=(0.68, 0.85)).moved(-length * 0.06, floor + 0.45)
    s.add(s.paint("blue", "white", "black", "grey", plain=True), cabin, part="{} windows")
    _wheels(s, radius, length * 0.31, 0.47)
    return length, floor + 0.25


def car(s: Sketch) -> None:
    _car(s)
    s.synonyms += ["a vehicle on four wheels"]


def car_with_wings(s: Sketch) -> None:
    length, height = _car(s)
    s.add(s.paint(), _wings(s.between(1.5, 2.0), length * 0.3).moved(y=height), part="two {} wings")


def _wings(span: float, chord: float) -> Solid:
    """Two wings along z, each `span` long, swept back from +x."""
    half = plate([(-chord / 2, 0), (chord / 2, 0), (chord * 0.05, span), (-chord * 0.55, span)], 0.07)
    return joined([half.turned("x", 90), half.turned("x", -90)])


def airplane(s: Sketch) -> None:
    length, radius = s.between(2.2, 3.0, "short", "long"), s.between(0.2, 0.3, "slim")
    outline = ((0.0, -0.5), (0.3, -0.5), (1.0, -0.15), (1.0, 0.3), (0.75, 0.42), (0.0, 0.5))
    body = lathe([(radius * r, length * x) for r, x in outline]).turned("z", -90)
    s.add(s.paint(), body.moved(y=0.5), part="a {} body")
    paint = s.paint(plain=True)
    s.add(paint, _wings(s.between(1.1, 1.6), length * 0.24).moved(length * 0.05, 0.45), part="two {} wings")
    s.add(paint, _wings(0.5, 0.35).moved(-length * 0.42, 0.55))
    fin = plate([(-0.25, 0), (0.2, 0), (-0.05, 0.6), (-0.3, 0.6)], 0.06)
    s.add(paint if s.chance(0.5) else s.paint(plain=True), fin.moved(-length * 0.42, 0.55), part="a {} tail")
    s.synonyms += ["a flying vehicle with two wings and a tail"]


def boat(s: Sketch) -> None:
    length, width = s.between(1.8, 2.6, "short", "long"), s.between(0.35, 0.5, "narrow", "wide")
    half = [(x * length / 2, width * (1 - 0.98 * max(x, 0.0) ** 2)) for x in np.linspace(-1, 1, 9)]  # pointed at +x
    edge = np.array([(x, 0.0, z) for x, z in half] + [(x, 0.0, -z) for x, z in reversed(half)])
    s.add(s.paint(), loft(np.stack([edge * (0.75, 0, 0.45), edge + np.array([0, 0.5, 0])])), part="a {} hull")
    if s.chance(0.7):
        mast = s.between(1.3, 2.0)
        s.add(s.paint("brown", "grey", "black", plain=True), rod([(0.1, 0.4, 0), (0.1, 0.5 + mast, 0)], 0.07), part="a {} mast")
        sail = plate([(0.05, 0.65), (0.05, 0.45 + mast), (-length * 0.4, 0.65)], 0.04)
        s.add(s.paint(), sail, part="a {} sail")
    else:
        s.add(s.paint(), box(length * 0.3, 0.45, width).moved(-length * 0.1, 0.5), part="a {} cabin")
    s.synonyms += ["a vessel that floats on water"]


def stairs(s: Sketch) -> None:
    count, width, rise = s.count(4, 8), s.between(0.8, 1.5, "narrow", "wide"), s.between(0.16, 0.26, "flat", "steep")
    blocks = [box(width, rise * (n + 1), 0.28).moved(z=-0.28 * n) for n in range(count)]
    s.add(s.paint(), *blocks, part=f"{number(count)} {{}} steps")
    s.synonyms += ["steps that lead up", "blocks like steps, each taller than the last"]


def snowman(s: Sketch) -> None:
    big, snow = s.between(0.5, 0.65, "", "fat"), s.paint("white", "white", "grey", "blue", plain=True)
    middle, head = big * 0.72, big * 0.5
    heights = (big * 0.9, big * 1.75 + middle * 0.75, big * 1.75 + middle * 2.2)
    balls = [ball(radius, sides=16).moved(y=y) for radius, y in zip((big, middle, head), heights, strict=True)]
    s.add(snow, *balls, part="three {} balls")
    nose = pillar(0.07, 0.3, 0.0).turned("x", 90)
    s.add(s.paint("orange", "red", plain=True), nose.moved(y=heights[2], z=head * 0.9), part="a {} nose")
    if s.chance(0.6):
        hat = joined([pillar(head, 0.05), pillar(head * 0.65, 0.35)])
        s.add(s.paint("black", "red", "blue", "green", plain=True), hat.moved(y=heights[2] + head * 0.8), part="a {} hat")
    s.synonyms += ["three balls on top of each other", "a ball on a ball on a ball"]
