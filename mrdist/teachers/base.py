"""What a teacher is: anything that embeds images and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mrdist.progress import Progress

Rows = NDArray[np.float32]

SUPPLIES = frozenset({"image", "text", "caption tokens"})
"""What an open_clip teacher can say at most; tokens only where its text tower gives them: see `Teacher.supplies`."""

Pairs = Callable[[], Iterator[tuple[Sequence[bytes], Sequence[str]]]]
"""Views (encoded pictures) and captions of every training shape; each call starts from the first shape, in the same order."""


class Teacher(Protocol):
    """Embeds images and texts into one space. Frozen: the same input always gives the same row."""

    @property
    def width(self) -> int:
        """E, the length of an embedding."""

    @property
    def fingerprint(self) -> str:
        """Letters and digits; two teachers whose embeddings could differ never share it."""

    @property
    def supplies(self) -> frozenset[str]:
        """What it can say: a subset of {"image", "text", "caption tokens"}; objectives say what they need in the same words."""

    def images(self, encoded: Sequence[bytes]) -> Rows:
        """Unit rows `[N, E]` of N pictures, each the bytes of a JPEG or PNG file.

        Raises:
            TeacherError: bytes that are no picture.
        """

    def texts(self, captions: Sequence[str]) -> Rows:
        """Unit rows `[N, E]` of N captions."""


class TokenTeacher(Teacher, Protocol):
    """A teacher that also says what it thinks of every word: its `supplies` has "caption tokens"."""

    def tokens(self, captions: Sequence[str]) -> tuple[Rows, NDArray[np.bool_]]:
        """The text tower's normalised last layer `[N, L, D]`, and which of the L places hold a token `[N, L]`; the rest is zero."""


class TeacherConfig(Protocol):
    """The teacher of a recipe: a part that knows how to open itself.

    One that does not look at `pairs` should say so by a class attribute `learns = False`: then every shape is embedded as soon as it
    is drawn, and a run may begin meanwhile.
    """

    def open(self, folder: Path, pairs: Pairs, *, device: str, progress: Progress) -> Teacher:
        """The teacher, ready to embed.

        Args:
            folder: where teachers are kept.
            pairs: what a teacher that is fitted learns from; others do not look at it.
            device: a torch device.
            progress: told how far the fit is.

        Raises:
            TeacherError: it is not there, or is not what the recipe says.
        """
