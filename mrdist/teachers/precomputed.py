"""A teacher that is not at hand: what it said of a data set was published, and is all that can be known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from mrdist.errors import TeacherError
from mrdist.kinds import Part
from mrdist.progress import Progress, silent
from mrdist.recipe import Recipe
from mrdist.teachers.base import Pairs, Rows
from mrdist.teachers.clip import ClipConfig


def name_of(teacher: Part) -> str:
    """The name under which a teacher's embeddings are published, "MODEL:TAG" of open_clip; empty if it has none."""
    return f"{teacher.model}:{teacher.pretrained}" if isinstance(teacher, ClipConfig) and teacher.pretrained else ""


@dataclass(frozen=True)
class PrecomputedConfig(Part):
    """The teacher of a converted store; nothing is loaded, and nothing can be asked that was not asked then."""

    kind: str = "precomputed"

    supplies: ClassVar[frozenset[str]] = frozenset({"image", "text"})
    learns: ClassVar[bool] = False

    def check(self, recipe: Recipe) -> None:
        """Refuse data that do not bring what it said.

        Raises:
            TeacherError: they are to be drawn and embedded.
        """
        if recipe.data.kind != "converted":
            raise _not_at_hand(f"data={recipe.data.kind}, to be drawn and embedded")

    def open(self, folder: Path, pairs: Pairs, *, device: str, progress: Progress = silent) -> Precomputed:
        """Refuse: what it said lies in a store, and only that can tell.

        Raises:
            TeacherError: always.
        """
        raise _not_at_hand("something to embed")


class Precomputed:
    """What is left of a teacher: its name, the length of its rows, and rows of some words."""

    supplies = PrecomputedConfig.supplies

    def __init__(self, name: str, width: int, said: Mapping[str, Rows]) -> None:
        """
        Args:
            name: "MODEL:TAG" of open_clip.
            said: unit rows [E] of words, such as the names of classes.
        """
        self.fingerprint, self.width = name, width
        self._said = dict(said)

    @property
    def model(self) -> ClipConfig:
        """The same teacher as open_clip knows it; whoever loads it can ask it anything."""
        model, _, tag = self.fingerprint.partition(":")
        return ClipConfig(model=model, pretrained=tag)

    def images(self, encoded: Sequence[bytes]) -> Rows:
        """Rows of no pictures.

        Raises:
            TeacherError: there are some.
        """
        if encoded:
            raise self._silent("a picture")
        return np.zeros((0, self.width), np.float32)

    def texts(self, captions: Sequence[str]) -> Rows:
        """Unit rows `[N, E]` of words that it was asked about.

        Raises:
            TeacherError: it was not asked about one of them.
        """
        for caption in captions:
            if caption not in self._said:
                raise self._silent(repr(caption))
        return np.stack([self._said[caption] for caption in captions]) if captions else np.zeros((0, self.width), np.float32)

    def _silent(self, asked: str) -> TeacherError:
        model = self.model
        wanted = f"one of the {len(self._said)} names that it was asked about" if self._said else "nothing: only what it said is at hand"
        try_ = f"teacher=clip teacher.model={model.model} teacher.pretrained={model.pretrained}"
        return TeacherError(what=f"teacher {self.fingerprint}, which is not at hand", got=asked, wanted=wanted, try_=try_)


def _not_at_hand(got: str) -> TeacherError:
    wanted, try_ = "data=converted, which bring what it said", "teacher=openclip-vit-bigg-14, or another that can see"
    return TeacherError(what="teacher=precomputed", got=got, wanted=wanted, try_=try_)
