"""One synthetic shape while it is being made: chance, paint, solids, and the words that are true of them."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np

from mrdist.data.colour import linear
from mrdist.data.solids import Solid, joined
from mrdist.data.writing import Surface, glb

# Far apart, in sRGB; a drawn paint strays from its word by at most _STRAY per channel.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.10),
    "orange": (0.96, 0.52, 0.08),
    "yellow": (0.97, 0.87, 0.15),
    "green": (0.15, 0.60, 0.20),
    "blue": (0.12, 0.28, 0.80),
    "purple": (0.50, 0.18, 0.62),
    "pink": (0.96, 0.55, 0.72),
    "brown": (0.43, 0.26, 0.13),
    "black": (0.09, 0.09, 0.10),
    "white": (0.94, 0.94, 0.93),
    "grey": (0.52, 0.52, 0.53),
}
PATTERNS = ("striped", "checked", "spotted")
_STRAY = 0.035
_TEXELS = 64


@dataclass(frozen=True)
class Paint:
    """A colour, perhaps with a pattern of a second one, and what people call it."""

    words: str
    colour: tuple[float, float, float]  # sRGB 0..1
    second: tuple[float, float, float] | None = None
    pattern: str = ""


@dataclass
class Sketch:
    """Made part by part; what is said of it is recorded while it is drawn, so that no caption can be wrong."""

    random: np.random.Generator
    adjectives: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)  # "four blue legs"
    synonyms: list[str] = field(default_factory=list)  # "a seat with a back"
    sentences: list[str] = field(default_factory=list)  # whole captions, for what is more than one thing and has no one colour
    pieces: dict[Paint, list[Solid]] = field(default_factory=dict)

    def between(self, low: float, high: float, small: str = "", large: str = "") -> float:
        """A number; in the lowest or highest third of its range it earns the shape an adjective."""
        place = float(self.random.random())
        word = small if place < 1 / 3 else large if place > 2 / 3 else ""
        if word:
            self.adjectives.append(word)
        return low + place * (high - low)

    def count(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        return int(self.random.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        """True in a `share` of all shapes."""
        return bool(self.random.random() < share)

    def paint(self, *words: str, plain: bool = False) -> Paint:
        """A paint of one of the colours in `words` (of any, without words) that this shape does not have yet."""
        taken = {name for paint in self.pieces for name in paint.words.split()}
        every = words or tuple(COLOURS)
        names = [w for w in every if w not in taken] or every
        name = names[self.count(0, len(names) - 1)]
        if plain or not self.chance(0.2):
            return Paint(name, self._near(name))
        other = "white" if name != "white" else "black"
        pattern = PATTERNS[self.count(0, len(PATTERNS) - 1)]
        return Paint(f"{pattern} {name} and {other}", self._near(name), COLOURS[other], pattern)

    def add(self, paint: Paint, *solids: Solid, part: str = "") -> None:
        """Put solids on the shape; `part` names them, with a {} where the colour goes: "four {} legs"."""
        self.pieces.setdefault(paint, []).extend(solids)
        if part:
            self.parts.append(with_article(part.format(paint.words)))

    def main(self) -> Paint | None:
        """The paint that covers most of the shape; None where no paint covers two fifths, so that nobody would name the shape by it."""
        areas = {paint: sum(solid.area() for solid in solids) for paint, solids in self.pieces.items()}
        most = max(areas, key=areas.__getitem__)
        return most if areas[most] >= 0.4 * sum(areas.values()) else None

    def file(self) -> bytes:
        """The shape as a .glb file."""
        surfaces = []
        for paint, solids in self.pieces.items():
            solid = joined(solids)
            base = tuple(linear(np.array(paint.colour)).tolist()) if paint.second is None else (1.0, 1.0, 1.0)
            png = None if paint.second is None else _texture(paint.pattern, paint.colour, paint.second)
            uv = None if png is None else solid.uv
            surfaces.append(Surface(np.round(solid.vertices, 5), solid.faces, np.round(solid.normals, 5), uv, base=base, texture=png))
        return glb(surfaces)

    def _near(self, name: str) -> tuple[float, float, float]:
        red, green, blue = np.clip(np.array(COLOURS[name]) + self.random.uniform(-_STRAY, _STRAY, 3), 0, 1).round(3).tolist()
        return red, green, blue


def with_article(words: str) -> str:
    """ "a" turned into "an" where the next word asks for it; other first words stay."""
    first, _, rest = words.partition(" ")
    return f"an {rest}" if first == "a" and rest[:1] in "aeiou" else words


def number(n: int) -> str:
    """Small numbers as words."""
    return ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")[n]


def _texture(pattern: str, first: tuple[float, float, float], second: tuple[float, float, float]) -> bytes:
    from PIL import Image

    y, x = np.mgrid[0:_TEXELS, 0:_TEXELS] // (_TEXELS // 8)
    fine_y, fine_x = np.mgrid[0:_TEXELS, 0:_TEXELS] % (_TEXELS // 4) - _TEXELS / 8 + 0.5
    where = {"striped": y % 2 == 0, "checked": (x + y) % 2 == 0, "spotted": np.hypot(fine_x, fine_y) > _TEXELS / 13}[pattern]
    pixels = np.where(where[..., None], np.array(first), np.array(second))
    held = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(held, "PNG")
    return held.getvalue()
