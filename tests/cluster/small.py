"""A recipe that is prepared in seconds, and a teacher that needs no training."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from mrdist.data.synthetic import SyntheticConfig
from mrdist.kinds import Part
from mrdist.progress import Progress
from mrdist.recipe import Limits, Pools, Recipe, Views
from mrdist.teachers.base import Pairs, Rows


@dataclass(frozen=True)
class ColoursConfig(Part):
    """What colours a picture has, and which letters a caption."""

    kind: str = "colours"
    width: int = 12
    seconds: float = 0.0  # that it takes over every unit

    learns: ClassVar[bool] = False

    def open(self, folder: Path, pairs: Pairs, *, device: str, progress: Progress) -> Colours:
        return Colours(self.width, self.seconds)


class Colours:
    """See `ColoursConfig`."""

    supplies = frozenset({"image", "text"})

    def __init__(self, width: int, seconds: float) -> None:
        self.width, self.fingerprint, self.seconds = width, f"colours{width}", seconds

    def images(self, encoded: Sequence[bytes]) -> Rows:
        time.sleep(self.seconds)
        return self._rows([np.asarray(Image.open(io.BytesIO(one)).resize((2, 2))).reshape(-1)[: self.width] for one in encoded])

    def texts(self, captions: Sequence[str]) -> Rows:
        return self._rows([np.bincount(np.frombuffer(one.encode(), np.uint8) % self.width, minlength=self.width) for one in captions])

    def _rows(self, held: list[np.ndarray]) -> Rows:
        rows = np.array(held, np.float32).reshape(len(held), self.width) + 1
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


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
        limits=Limits(seconds=20),
        pools=Pools(renderers=(1, 2), teachers=(1, 1)),
        teacher=ColoursConfig(),
    )
    return replace(given, **changes)  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder that is not beside its place."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name[0] != "."}
