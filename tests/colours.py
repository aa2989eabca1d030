"""A teacher that needs no training: what colours a picture has, and which letters a caption."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mrdist.teachers.base import Rows


class Colours:
    """Gives rows of `width` numbers."""

    supplies = frozenset({"image", "text"})

    def __init__(self, width: int) -> None:
        self.width, self.fingerprint = width, f"colours{width}"

    def images(self, encoded: Sequence[bytes]) -> Rows:
        return self._rows([np.asarray(Image.open(io.BytesIO(one)).resize((2, 2))).reshape(-1)[: self.width] for one in encoded])

    def texts(self, captions: Sequence[str]) -> Rows:
        return self._rows([np.bincount(np.frombuffer(one.encode(), np.uint8) % self.width, minlength=self.width) for one in captions])

    def _rows(self, held: list[np.ndarray]) -> Rows:
        rows = np.array(held, np.float32).reshape(len(held), self.width) + 1
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
