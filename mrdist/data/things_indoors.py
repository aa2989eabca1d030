"""How synthetic things for the house are put together: solids, furniture, vessels, tools. One short function per class.

y is up, feet are on the ground, the front looks to +z. Each function draws its own proportions, parts and paints, and records what is true
of them. A word like "arms", "handle" or "on" means the same in every class: that is what classes never seen in training are known by.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mrdist.data.sketch import Paint, Sketch, number
from mrdist.data.solids import Solid, ball, box, cup, joined, lathe, pillar, pyramid, ring, rod

_SIDES = (-1, 1)


def sphere(s: Sketch) -> None:
    s.add(s.paint(), ball(1.0, sides=24))
    s.synonyms += ["a round ball"]


def cube(s: Sketch) -> None:
    s.add(s.paint(), box(1.0, 1.0, 1.0))
    s.synonyms += ["a box with equal sides"]


def cone(s: Sketch) -> None:
    s.add(s.paint(), pillar(s.between(0.3, 0.65, "narrow", "wide"), 1.2, 0.0))
    s.synonyms += ["a pointed solid on a round base"]


def cylinder(s: Sketch) -> None:
    s.add(s.paint(), pillar(s.between(0.22, 0.5, "narrow", "wide"), 1.2))
    s.synonyms += ["a round column with a flat top"]


def torus(s: Sketch) -> None:
    s.add(s.paint(), ring(1.0, s.between(0.25, 0.7, "thin", "thick")))
    s.synonyms += ["a round hoop with a hole"]


def square_pyramid(s: Sketch) -> None:
    s.add(s.paint(), pyramid(1.0, s.between(0.6, 1.3, "flat", "tall"), 1.0))
    s.synonyms += ["a pointed solid on a square base"]


def stack(upper: str, lower: str) -> Callable[[Sketch], None]:
    """One solid on another one."""

    def made(s: Sketch) -> None:
        wide, high = s.between(0.9, 1.3), s.between(0.6, 1.1)
        floor = wide if lower == "cube" else high
        if upper == "sphere":
            radius = wide * s.between(0.33, 0.48)
            solid = ball(radius).moved(y=floor + radius * 0.97)
        else:
            solid = pillar(wide * s.between(0.4, 0.55), s.between(0.7, 1.2), 0.0).moved(y=floor)
        s.add(s.paint(), solid, part=f"a {{}} {upper}")
        s.add(s.paint(), box(wide, wide, wide) if lower == "cube" else pillar(wide / 2, high), part=f"a {{}} {lower}")
        above, below = s.parts
        s.sentences += [f"{above} on {below}", f"{above} on top of {below}", f"{below} under {above}"]

    return made


def _legs(s: Sketch, paint: Paint, height: float, feet: list[tuple[float, float]], *, splay: float = 1.0) -> None:
    """Round or square legs whose upper ends stand at `feet` (x, z); `splay` spreads the lower ends."""
    thickness = s.between(0.07, 0.14)
    if splay == 1.0 and s.chance(0.5):
        legs = [box(thickness, height, thickness).moved(x, 0, z) for x, z in feet]
    else:
        legs = [rod([(x * splay, 0, z * splay), (x, height, z)], thickness) for x, z in feet]
    s.add(paint, *legs, part=f"{number(len(feet))} {{}} legs")


def _corners(x: float, z: float) -> list[tuple[float, float]]:
    return [(a * x, b * z) for a in _SIDES for b in _SIDES]


def _chair(s: Sketch) -> tuple[float, float, float]:
    """Width, depth and height of the seat."""
    width, depth, height = s.between(0.85, 1.1, "narrow", "wide"), s.between(0.85, 1.05), s.between(0.75, 1.05)
    s.add(s.paint(), box(width, 0.1, depth).moved(y=height), part="a {} seat")
    frame = s.paint(plain=True)
    _legs(s, frame, height, _corners(width / 2 - 0.07, depth / 2 - 0.07))
    rise = s.between(0.7, 1.15, "low", "tall")
    posts = [box(0.09, rise, 0.08).moved(x=x) for x in np.linspace(-width / 2 + 0.05, width / 2 - 0.05, 5)]
    backs = (
        [box(width, rise, 0.09)],  # a panel
        [*posts, box(width, 0.12, 0.09).moved(y=rise - 0.1)],  # bars that stand
        [posts[0], posts[-1], *(box(width, 0.13, 0.08).moved(y=y) for y in (rise * 0.4, rise - 0.13))],  # bars that lie
    )
    paint = frame if s.chance(0.5) else s.paint()
    back = joined(backs[s.count(0, 2)]).turned("x", -7)
    s.add(paint, back.moved(y=height + 0.06, z=-depth / 2 + 0.05), part="a {} back")
    return width, depth, height


def chair(s: Sketch) -> None:
    _chair(s)
    s.synonyms += ["a seat with a back and four legs", "furniture for one person to sit on"]


def chair_with_arms(s: Sketch) -> None:
    width, depth, height = _chair(s)
    thick, rise = s.between(0.1, 0.2), s.between(0.3, 0.45)
    arm = joined([box(thick, 0.09, depth).moved(y=rise), box(thick, rise, 0.1).moved(z=depth / 2 - 0.08)])
    s.add(s.paint(), *(arm.moved(x * width / 2, height + 0.08) for x in _SIDES), part="two {} arms")


def stool(s: Sketch) -> None:
    radius, height, count = s.between(0.36, 0.55, "small"), s.between(0.8, 1.4, "low", "tall"), s.count(3, 4)
    s.add(s.paint(), pillar(radius, 0.13).moved(y=height), part="a round {} seat")
    legs = s.paint(plain=True)
    angles = np.arange(count) * 2 * np.pi / count
    _legs(s, legs, height, [(0.7 * radius * np.sin(a), 0.7 * radius * np.cos(a)) for a in angles], splay=1.5)
    if s.chance(0.5):
        s.add(legs, ring(radius * 0.85, 0.05).moved(y=height * 0.4), part="a {} ring between the legs")
    s.synonyms += [f"a round seat on {number(count)} legs without a back"]


def table(s: Sketch) -> None:
    width, height = s.between(1.5, 2.5, "small", "long"), s.between(0.75, 1.05, "low", "tall")
    depth = width if s.chance(0.3) else s.between(0.9, 1.3)
    s.add(s.paint(), box(width, 0.09, depth).moved(y=height), part=f"a {'square' if depth == width else 'rectangular'} {{}} top")
    _legs(s, s.paint(plain=True), height, _corners(width / 2 - 0.1, depth / 2 - 0.1))
    s.synonyms += ["a flat top on four legs"]


def round_table(s: Sketch) -> None:
    radius, height = s.between(0.75, 1.15, "small", "wide"), s.between(0.75, 1.05, "low", "tall")
    s.add(s.paint(), pillar(radius, 0.09, sides=28).moved(y=height), part="a round {} top")
    paint = s.paint(plain=True)
    if s.chance(0.5):
        _legs(s, paint, height, _corners(radius * 0.6, radius * 0.6))
    else:
        s.add(paint, pillar(0.09, height), pillar(radius * 0.5, 0.07), part="a {} pole")


def table_with_umbrella(s: Sketch) -> None:
    table(s)
    s.synonyms.clear()  # a table is not all it is
    height, radius = s.between(2.3, 2.8), s.between(1.1, 1.5)
    s.add(s.paint(), _canopy(radius, radius * 0.45).moved(y=height - radius * 0.45), part="a {} umbrella")
    s.add(s.paint(plain=True), rod([(0, 0, 0), (0, height, 0)], 0.08))


def lamp(s: Sketch) -> None:
    height, radius, rise = s.between(1.2, 2.4, "short", "tall"), s.between(0.3, 0.45), s.between(0.4, 0.65)
    low, high = radius * 1.2, radius * s.between(0.4, 1.1)
    shade = lathe([(low, 0), (high, rise), (high - 0.03, rise), (low - 0.03, 0), (low, 0)])
    s.add(s.paint(), shade.moved(y=height - rise * 0.6), part="a {} shade")
    s.add(s.paint(plain=True), pillar(radius, 0.08), rod([(0, 0, 0), (0, height, 0)], 0.07), part="a round {} base")
    s.add(s.paint("yellow", "white", plain=True), ball(0.11, sides=10).moved(y=height - rise * 0.2))
    s.synonyms += ["a light on a pole", "a shade on a thin pole with a round base"]


def bookshelf(s: Sketch) -> None:
    width, height, count = s.between(0.9, 1.5, "narrow", "wide"), s.between(1.6, 2.3, "low", "tall"), s.count(3, 5)
    gap, wood = height / count, s.paint()
    boards = [box(width, 0.06, 0.4).moved(y=n * gap) for n in range(count + 1)]
    walls = [box(0.06, height + 0.06, 0.4).moved(x=x * width / 2) for x in _SIDES]
    s.add(wood, *boards, *walls, box(width, height, 0.03).moved(z=-0.2), part=f"{number(count)} {{}} shelves")
    for n in range(count):
        left = -width / 2 + 0.08
        while left < width / 2 - 0.25 and s.chance(0.9):
            thick, high = s.between(0.05, 0.12), gap * s.between(0.5, 0.8)
            s.add(s.paint(plain=True), box(thick, high, 0.26).moved(left + thick / 2, n * gap + 0.06))
            left += thick + 0.01
    s.parts += ["many books"]
    s.synonyms += ["shelves full of books", "a cabinet with books on shelves"]


def _bed(s: Sketch, height: float) -> float:
    """Width of a bed whose frame is at `height`."""
    width, length = s.between(1.0, 1.7, "single", "double"), s.between(1.9, 2.2)
    posts = [box(0.1, height, 0.1).moved(x, 0, z) for x, z in _corners(width / 2 - 0.05, length / 2 - 0.05)]
    s.add(s.paint(), box(width, 0.15, length).moved(y=height), *posts, part="a {} frame")
    s.add(s.paint(), box(width * 0.95, 0.2, length * 0.97, top=0.97).moved(y=height + 0.15), part="a {} blanket")
    places, words = ([0.0], "a {} pillow") if width < 1.35 else ([-0.33, 0.33], "two {} pillows")
    pillow = box(0.5, 0.14, 0.32, top=0.8).moved(0, height + 0.35, -length / 2 + 0.25)
    s.add(s.paint("white", "grey", "yellow", plain=True), *(pillow.moved(x=x) for x in places), part=words)
    board = box(width, height + s.between(0.5, 0.8), 0.09)
    s.add(s.paint(), board.moved(z=-length / 2 - 0.04), part="a {} headboard")
    return width


def bed(s: Sketch) -> None:
    _bed(s, s.between(0.15, 0.35))
    s.synonyms += ["furniture to sleep on, with a pillow and a blanket"]


def bed_with_ladder(s: Sketch) -> None:
    height = s.between(0.6, 0.95)
    width = _bed(s, height)
    steps = _rungs(0.55, height + 0.6, 4).turned("y", 90).turned("z", 10)  # leans against the side at +x
    s.add(s.paint(plain=True), steps.moved(x=width / 2 + 0.2), part="a {} ladder")


def sofa(s: Sketch) -> None:
    width, arm, seats, cloth = s.between(1.6, 2.6, "small", "long"), s.between(0.18, 0.3), s.count(2, 3), s.paint()
    s.add(cloth, box(width, 0.4, 0.9).moved(y=0.1), box(width, 0.9, 0.25).moved(y=0.1, z=-0.4), part="a {} back")
    arms = [box(arm, 0.65, 0.9).moved(x * (width + arm) / 2, 0.1) for x in _SIDES]
    s.add(cloth if s.chance(0.5) else s.paint(), *arms, part="two {} arms")
    one = width / seats
    cushion = box(one * 0.94, 0.16, 0.68, top=0.95).moved(one / 2 - width / 2, 0.5, 0.1)
    s.add(s.paint(), *(cushion.moved(x=one * n) for n in range(seats)), part=f"{number(seats)} {{}} cushions")
    s.synonyms += ["a long soft seat with a back and two arms", "furniture for more than one person to sit on"]


def _handle(radius: float, thickness: float) -> Solid:
    """Half a ring that stands out to +x."""
    return rod([(radius * np.sin(a), -radius * np.cos(a), 0) for a in np.linspace(0, np.pi, 9)], thickness)


def mug(s: Sketch) -> None:
    radius, height, paint = s.between(0.38, 0.55, "narrow", "wide"), s.between(0.75, 1.1, "short", "tall"), s.paint()
    s.add(paint, cup([(0, 0), (radius, 0), (radius * s.between(0.95, 1.12), height)], 0.06))
    handle = _handle(height * 0.33, 0.1).moved(radius - 0.03, height * 0.5)
    s.add(paint if s.chance(0.4) else s.paint(plain=True), handle, part="a {} handle")
    s.synonyms += ["an open cylinder with a handle", "a vessel to drink from, with a handle"]


def _bottle(s: Sketch) -> tuple[float, float]:
    """Radius and height of the body of a bottle."""
    radius, height = s.between(0.25, 0.45, "slim", "wide"), s.between(0.7, 1.1, "short", "tall")
    neck, rise = radius * s.between(0.28, 0.42), s.between(0.3, 0.5)
    shoulder = [(radius - (radius - neck) * (1 - np.cos(a)) / 2, height + 0.3 * a / np.pi) for a in np.linspace(0, np.pi, 7)]
    s.add(s.paint(), lathe([(0, 0), (radius, 0), *shoulder, (neck, height + rise), (0, height + rise)]), part="a narrow {} neck")
    s.add(s.paint(plain=True), pillar(neck * 1.2, 0.14).moved(y=height + rise), part="a {} cap")
    return radius, height


def bottle(s: Sketch) -> None:
    _bottle(s)
    s.synonyms += ["a vessel with a narrow neck and a cap"]


def bottle_with_handle(s: Sketch) -> None:
    radius, height = _bottle(s)
    s.add(s.paint(plain=True), _handle(height * 0.36, 0.11).moved(radius - 0.03, height * 0.5), part="a {} handle")


def bowl(s: Sketch) -> None:
    height, foot = s.between(0.35, 0.7, "flat", "deep"), s.between(0.25, 0.45)
    curve = [(foot + (1 - foot) * np.sin(a), 0.1 + height * (1 - np.cos(a))) for a in np.linspace(0, np.pi / 2, 8)]
    s.add(s.paint(), cup([(0, 0.1), *curve], 0.05, sides=28), pillar(foot, 0.12))
    s.synonyms += ["an open round vessel", "half a hollow ball"]


def _rungs(width: float, height: float, count: int) -> Solid:
    """An upright ladder."""
    rails = [box(0.08, height, 0.06).moved(x=x * width / 2) for x in _SIDES]
    steps = [rod([(-width / 2, y, 0), (width / 2, y, 0)], 0.06) for y in np.linspace(0, height, count + 2)[1:-1]]
    return joined([*rails, *steps])


def ladder(s: Sketch) -> None:
    count, height = s.count(4, 8), s.between(1.8, 2.8, "short", "tall")
    steps = _rungs(s.between(0.5, 0.75, "narrow", "wide"), height, count).turned("x", -s.between(0, 15))
    s.add(s.paint(), steps, part=f"{number(count)} {{}} steps")
    s.synonyms += ["two long rails with steps between them", "steps to climb up"]


def _canopy(radius: float, height: float) -> Solid:
    outside = [(radius * np.sin(a), height * np.cos(a)) for a in np.linspace(np.pi / 2, 0, 7)]
    inside = [(max(r - 0.04, 0.0), max(h - 0.03, 0.0)) for r, h in reversed(outside)]
    return lathe([*inside, *outside], sides=16)


def umbrella(s: Sketch) -> None:
    radius, height = s.between(0.8, 1.2, "small", "wide"), s.between(1.4, 1.9, "short", "tall")
    s.add(s.paint(), _canopy(radius, radius * s.between(0.35, 0.65, "flat")).moved(y=height - radius * 0.3), part="a {} canopy")
    hook = [(0.13 * np.cos(a) - 0.13, 0.13 * np.sin(a), 0) for a in np.linspace(-np.pi, 0, 9)]
    s.add(s.paint(plain=True), rod([*hook, (0, height, 0)], 0.07), part="a {} handle")
    s.synonyms += ["a round canopy on a thin pole", "a cover against rain, on a pole"]


def hammer(s: Sketch) -> None:
    length, head = s.between(1.1, 1.7, "short", "long"), s.between(0.5, 0.8)
    s.add(s.paint(plain=True), rod([(0, 0, 0), (0, length, 0)], 0.14), part="a long {} handle")
    block = box(head, 0.26, 0.26) if s.chance(0.5) else pillar(0.15, head).turned("z", 90).moved(x=head / 2, y=0.13)
    s.add(s.paint(plain=True), block.moved(y=length), part="a heavy {} head")
    s.synonyms += ["a tool with a handle and a heavy head"]
