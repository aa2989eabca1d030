"""A recipe that is prepared in seconds, and a teacher that needs no training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from mrdist.data.synthetic import SyntheticConfig
from mrdist.kinds import Part
from mrdist.progress import Progress
from mrdist.recipe import Limits, Pools, Recipe, Views
from mrdist.teachers.base import Pairs, Rows
from tests.colours import Colours


@dataclass(frozen=True)
class ColoursConfig(Part):
    """`Colours`, which take their time."""

    kind: str = "colours"
    width: int = 12
    seconds: float = 0.0  # that it takes over every unit

    learns: ClassVar[bool] = False

    def open(self, folder: Path, pairs: Pairs, *, device: str, progress: Progress) -> Colours:
        return SlowColours(self.width, self.seconds)


class SlowColours(Colours):
    """The same, after a while."""

    def __init__(self, width: int, seconds: float) -> None:
        super().__init__(width)
        self.seconds = seconds

    def images(self, encoded: Sequence[bytes]) -> Rows:
        time.sleep(self.seconds)
        return super().images(encoded)


def recipe(store: Path, **changes: object) -> Recipe:
    given = Recipe(
        name="tiny",
        points=64,
        sample=32,
        workers=2,
        device="cpu",
        store=str(store),
        data=SyntheticConfig(train=6, val=0, test=1, unseen=1),
        views=Views(ring="front4", pixels=16, supersampling=1),
        limits=Limits(seconds=300),
        pools=Pools(renderers=(1, 2), teachers=(1, 1)),
        teacher=ColoursConfig(),
    )
    return replace(given, **changes)  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder that is not beside its place."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name[0] != "."}
