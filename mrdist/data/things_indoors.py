"""How synthetic things for the house are put together: solids, furniture, vessels, tools. One short function per class.

y is up, feet are on the ground, the front looks to +z. Each function draws its own proportions, parts and paints, and records what is true
of them. A word like "arms", "handle" or "on" means the same in every class: that is what classes never seen in training are known by.
"""

from __future__ import annotations

import numpy as np

from mrdist.data.sketch import Paint, Sketch, number
from mrdist.data.solids import Solid, ball, box, cup, joined, lathe, pillar, pyramid, ring, rod


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


def _legs(
    s: Sketch, count: int, spread: float, height: float, *, depth: float | None = None, splay: float = 1.0, paint: Paint | None = None
) -> None:
    """Round or square legs under the corners of a rectangle, or on a circle when they are not four."""
    depth = spread if depth is None else depth
    thickness = s.between(0.07, 0.14)
    if count == 4:
        feet = [(x * spread, z * depth) for x in (-1, 1) for z in (-1, 1)]
    else:
        feet = [(spread * np.sin(a), spread * np.cos(a)) for a in np.arange(count) * 2 * np.pi / count]
    square = splay == 1.0 and s.chance(0.5)
    legs = [
        box(thickness, height, thickness).moved(x, 0, z) if square else rod([(x * splay, 0, z * splay), (x, height, z)], thickness)
        for x, z in feet
    ]
    s.add(paint or s.paint(plain=True), *legs, part=f"{number(count)} {{}} legs")


def _seat_with_back(s: Sketch) -> tuple[float, float, float, Paint]:
    """Width, depth and height of the seat, and the paint of the frame."""
    width, depth, height = s.between(0.85, 1.1, "narrow", "wide"), s.between(0.85, 1.05), s.between(0.75, 1.05)
    s.add(s.paint(), box(width, 0.1, depth).moved(y=height), part="a {} seat")
    frame = s.paint(plain=True)
    _legs(s, 4, width / 2 - 0.07, height, depth=depth / 2 - 0.07, paint=frame)
    rise, style = s.between(0.7, 1.15, "low", "tall"), s.count(0, 2)
    panel = box(width, rise, 0.09)
    slats = [box(0.09, rise, 0.08).moved(x=x) for x in np.linspace(-width / 2 + 0.05, width / 2 - 0.05, 5)]
    bars = [box(width, 0.13, 0.08).moved(y=y) for y in (rise * 0.4, rise - 0.13)] + [slats[0], slats[-1]]
    back = [[panel], [*slats, box(width, 0.12, 0.09).moved(y=rise - 0.1)], bars][style]
    paint = frame if s.chance(0.5) else s.paint()
    s.add(paint, *(b.turned("x", -7).moved(y=height + 0.06, z=-depth / 2 + 0.05) for b in back), part="a {} back")
    return width, depth, height, frame


def chair(s: Sketch) -> None:
    _seat_with_back(s)
    s.synonyms += ["a seat with a back and four legs", "furniture for one person to sit on"]


def chair_with_arms(s: Sketch) -> None:
    width, depth, height, _ = _seat_with_back(s)
    thick, rise = s.between(0.1, 0.2), s.between(0.3, 0.45)
    arms = [
        joined([box(thick, 0.09, depth).moved(y=rise), box(thick, rise, 0.1).moved(z=depth / 2 - 0.08)]).moved(x * width / 2, height + 0.08)
        for x in (-1, 1)
    ]
    s.add(s.paint(), *arms, part="two {} arms")


def stool(s: Sketch) -> None:
    radius, height, count = s.between(0.36, 0.55, "small", ""), s.between(0.8, 1.4, "low", "tall"), s.count(3, 4)
    s.add(s.paint(), pillar(radius, 0.13).moved(y=height), part="a round {} seat")
    legs = s.paint(plain=True)
    _legs(s, count, radius * 0.7 if count == 3 else radius * 0.5, height, splay=1.5, paint=legs)
    if s.chance(0.5):
        s.add(legs, ring(radius * 0.85, 0.05).moved(y=height * 0.4), part="a {} ring between the legs")
    s.synonyms += [f"a round seat on {number(count)} legs without a back"]


def table(s: Sketch) -> None:
    width, height = s.between(1.5, 2.5, "small", "long"), s.between(0.75, 1.05, "low", "tall")
    depth = width if s.chance(0.3) else s.between(0.9, 1.3)
    s.add(s.paint(), box(width, 0.09, depth).moved(y=height), part=f"a {'square' if depth == width else 'rectangular'} {{}} top")
    _legs(s, 4, width / 2 - 0.1, height, depth=depth / 2 - 0.1)
    s.synonyms += ["a flat top on four legs"]


def round_table(s: Sketch) -> None:
    radius, height = s.between(0.75, 1.15, "small", "wide"), s.between(0.75, 1.05, "low", "tall")
    s.add(s.paint(), pillar(radius, 0.09, sides=28).moved(y=height), part="a round {} top")
    if s.chance(0.5):
        _legs(s, 4, radius * 0.6, height)
    else:
        s.add(s.paint(plain=True), pillar(0.09, height), pillar(radius * 0.5, 0.07), part="a {} pole")


def table_with_umbrella(s: Sketch) -> None:
    table(s)
    s.synonyms.clear()
    height, radius = s.between(2.3, 2.8), s.between(1.1, 1.5)
    s.add(s.paint(plain=True), rod([(0, 0, 0), (0, height, 0)], 0.08))
    s.add(s.paint(), _canopy(radius, radius * 0.45).moved(y=height - radius * 0.45), part="a {} umbrella")


def lamp(s: Sketch) -> None:
    height, radius = s.between(1.2, 2.4, "short", "tall"), s.between(0.3, 0.45)
    metal = s.paint(plain=True)
    top = radius * s.between(0.35, 0.95)
    rise = s.between(0.4, 0.65)
    shade = lathe([(radius * 1.2, 0), (top * 1.2, rise), (top * 1.2 - 0.03, rise), (radius * 1.2 - 0.03, 0), (radius * 1.2, 0)])
    s.add(s.paint(), shade.moved(y=height - rise * 0.6), part="a {} shade")
    s.add(metal, pillar(radius, 0.08), rod([(0, 0, 0), (0, height, 0)], 0.07), part="a round {} base")
    s.add(s.paint("yellow", "white", plain=True), ball(0.11, sides=10).moved(y=height - rise * 0.2))
    s.synonyms += ["a light on a pole", "a shade on a thin pole with a round base"]


def bookshelf(s: Sketch) -> None:
    width, height, count = s.between(0.9, 1.5, "narrow", "wide"), s.between(1.6, 2.3, "low", "tall"), s.count(3, 5)
    gap, wood = height / count, s.paint()
    boards = [box(width, 0.06, 0.4).moved(y=n * gap) for n in range(count + 1)]
    sides = [box(0.06, height + 0.06, 0.4).moved(x=x * width / 2) for x in (-1, 1)]
    s.add(wood, *boards, *sides, part=f"{number(count)} {{}} shelves")
    s.add(wood, box(width, height, 0.03).moved(z=-0.2))
    for n in range(count):
        left = -width / 2 + 0.08
        while left < width / 2 - 0.25 and s.chance(0.9):
            thick = 0.05 + 0.07 * float(s.random.random())
            s.add(
                s.paint(plain=True), box(thick, gap * (0.5 + 0.3 * float(s.random.random())), 0.26).moved(left + thick / 2, n * gap + 0.06)
            )
            left += thick + 0.01
    s.parts += ["many books"]
    s.synonyms += ["shelves full of books", "a cabinet with books on shelves"]


def _bed(s: Sketch, height: float) -> tuple[float, float]:
    """Width and length of a bed whose frame is at `height`."""
    width, length = s.between(1.0, 1.7, "single", "double"), s.between(1.9, 2.2)
    frame = s.paint()
    s.add(frame, box(width, 0.15, length).moved(y=height), part="a {} frame")
    s.add(frame, *(box(0.1, height, 0.1).moved(x * (width / 2 - 0.05), 0, z * (length / 2 - 0.05)) for x in (-1, 1) for z in (-1, 1)))
    s.add(s.paint(), box(width * 0.95, 0.2, length * 0.97, top=0.97).moved(y=height + 0.15), part="a {} blanket")
    count = 2 if width > 1.35 else 1
    pillows = [box(0.5, 0.14, 0.32, top=0.8).moved(x, height + 0.35, -length / 2 + 0.25) for x in ([0.0] if count == 1 else [-0.33, 0.33])]
    s.add(s.paint("white", "grey", "yellow", plain=True), *pillows, part=f"{'a' if count == 1 else 'two'} {{}} pillow{'s' * (count - 1)}")
    return width, length


def bed(s: Sketch) -> None:
    height = s.between(0.15, 0.35)
    width, length = _bed(s, height)
    s.add(s.paint(), box(width, s.between(0.7, 1.1), 0.09).moved(z=-length / 2 - 0.04), part="a {} headboard")
    s.synonyms += ["furniture to sleep on, with a pillow and a blanket"]


def bed_with_ladder(s: Sketch) -> None:
    height = s.between(1.2, 1.6)
    width, _ = _bed(s, height)
    steps = s.paint(plain=True)
    s.add(
        steps,
        _rungs(0.5, height + 0.3, 5).turned("z", -12).turned("y", 90).turned("y", -90).turned("y", 90).moved(x=width / 2 + 0.12),
        part="a {} ladder",
    )


def sofa(s: Sketch) -> None:
    width, seats, cloth = s.between(1.6, 2.6, "small", "long"), s.count(2, 3), s.paint()
    arm = s.between(0.18, 0.3)
    s.add(cloth, box(width, 0.4, 0.9).moved(y=0.1), box(width, 0.9, 0.25).moved(y=0.1, z=-0.4), part="a {} back")
    s.add(
        cloth if s.chance(0.5) else s.paint(), *(box(arm, 0.65, 0.9).moved(x * (width + arm) / 2, 0.1) for x in (-1, 1)), part="two {} arms"
    )
    one = width / seats
    s.add(
        s.paint(),
        *(box(one * 0.94, 0.16, 0.68, top=0.95).moved(-width / 2 + one * (n + 0.5), 0.5, 0.1) for n in range(seats)),
        part=f"{number(seats)} {{}} cushions",
    )
    s.synonyms += ["a long soft seat with a back and two arms", "furniture for more than one person to sit on"]


def _handle(radius: float, thickness: float) -> Solid:
    """Half a ring that stands out to +x."""
    return rod([(radius * np.sin(a), -radius * np.cos(a), 0) for a in np.linspace(0, np.pi, 9)], thickness)


def mug(s: Sketch) -> None:
    radius, height = s.between(0.38, 0.55, "narrow", "wide"), s.between(0.75, 1.1, "short", "tall")
    paint = s.paint()
    s.add(paint, cup([(0, 0), (radius, 0), (radius * s.between(0.95, 1.12), height)], 0.06))
    s.add(
        paint if s.chance(0.4) else s.paint(plain=True), _handle(height * 0.33, 0.1).moved(radius - 0.03, height * 0.5), part="a {} handle"
    )
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
    height, foot, paint = s.between(0.35, 0.7, "flat", "deep"), s.between(0.25, 0.45), s.paint()
    curve = [(foot + (1 - foot) * np.sin(a), 0.1 + height * (1 - np.cos(a))) for a in np.linspace(0, np.pi / 2, 8)]
    s.add(paint, cup([(0, 0.1), *curve], 0.05, sides=28), pillar(foot, 0.12))
    s.synonyms += ["an open round vessel", "half a hollow ball"]


def _rungs(width: float, height: float, count: int) -> Solid:
    """An upright ladder."""
    rails = [box(0.08, height, 0.06).moved(x=x * width / 2) for x in (-1, 1)]
    return joined([*rails, *(rod([(-width / 2, y, 0), (width / 2, y, 0)], 0.06) for y in np.linspace(0, height, count + 2)[1:-1])])


def ladder(s: Sketch) -> None:
    count, height = s.count(4, 8), s.between(1.8, 2.8, "short", "tall")
    s.add(
        s.paint(),
        _rungs(s.between(0.5, 0.75, "narrow", "wide"), height, count).turned("x", -s.between(0, 15)),
        part=f"{number(count)} {{}} steps",
    )
    s.synonyms += ["two long rails with steps between them", "steps to climb up"]


def _canopy(radius: float, height: float) -> Solid:
    curve = [(radius * np.sin(a), height * np.cos(a)) for a in np.linspace(np.pi / 2, 0, 7)]
    inner = [(max(r - 0.04, 0), max(h - 0.03, 0.0)) for r, h in reversed(curve)]
    return lathe([*curve, *inner, curve[0]], sides=16)


def umbrella(s: Sketch) -> None:
    radius, height = s.between(0.8, 1.2, "small", "wide"), s.between(1.4, 1.9, "short", "tall")
    s.add(s.paint(), _canopy(radius, radius * s.between(0.35, 0.65, "flat", "")).moved(y=height - radius * 0.3), part="a {} canopy")
    hook = [(0.13 * np.cos(a) - 0.13, 0.13 * np.sin(a), 0) for a in np.linspace(-np.pi, 0, 9)]
    s.add(s.paint(plain=True), rod([*hook, (0, height, 0)], 0.07), part="a {} handle")
    s.synonyms += ["a round canopy on a thin pole", "a cover against rain, on a pole"]


def hammer(s: Sketch) -> None:
    length, head = s.between(1.1, 1.7, "short", "long"), s.between(0.5, 0.8)
    s.add(
        s.paint("brown", "yellow", "red", "blue", "black", "orange", plain=True),
        rod([(0, 0, 0), (0, length, 0)], 0.14),
        part="a long {} handle",
    )
    block = box(head, 0.26, 0.26) if s.chance(0.5) else pillar(0.15, head).turned("z", 90).moved(x=head / 2, y=0.13)
    s.add(s.paint(plain=True), block.moved(y=length), part="a heavy {} head")
    s.synonyms += ["a tool with a handle and a heavy head"]


def sphere_on_cube(s: Sketch) -> None:
    side, radius = s.between(0.9, 1.3), s.between(0.35, 0.6)
    s.add(s.paint(), ball(radius).moved(y=side + radius * 0.97), part="a {} sphere")
    s.add(s.paint(), box(side, side, side), part="a {} cube")


def cone_on_cylinder(s: Sketch) -> None:
    radius, height = s.between(0.4, 0.6), s.between(0.6, 1.1)
    s.add(s.paint(), pillar(radius * s.between(0.8, 1.4), s.between(0.6, 1.1), 0.0).moved(y=height), part="a {} cone")
    s.add(s.paint(), pillar(radius, height), part="a {} cylinder")
