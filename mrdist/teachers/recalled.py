"""A teacher by what it has said: opened only when it is asked something new, and let go again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mrdist.errors import TeacherError
from mrdist.teachers.base import Rows, Teacher
from mrdist.teachers.cache import Cache, cached_texts


class Recalled:
    """What a run keeps of its teacher. The teacher itself may be gigabytes, and whoever trains asks it a few sentences, always the same."""

    def __init__(self, fingerprint: str, width: int, said: Path, opened: Callable[[], Teacher], *, made_here: bool = False) -> None:
        """
        Args:
            said: the folder of what it has said of sentences; need not exist.
            opened: the teacher of this fingerprint and width.
            made_here: nobody else has it, and an export must carry it along.
        """
        self.fingerprint, self.width = fingerprint, width
        self._said, self._opened, self._made_here = said, opened, made_here

    @property
    def supplies(self) -> frozenset[str]:
        """As the teacher says."""
        return self._teacher().supplies

    @property
    def folder(self) -> Path | None:
        """The checkpoint of a teacher that was made here."""
        return getattr(self._teacher(), "folder", None) if self._made_here else None

    def images(self, encoded: Sequence[bytes]) -> Rows:
        """As the teacher says; nothing of it is kept."""
        return self._teacher().images(encoded)

    def texts(self, captions: Sequence[str]) -> Rows:
        """Unit rows `[N, E]` in float16 precision, from the folder as far as they are there.

        Raises:
            TeacherError: the teacher is needed, and cannot be had, or is another one by now.
        """
        with Cache(self._said, self.fingerprint) as known:
            return cached_texts(self, known, captions, ask=lambda new: self._teacher().texts(new))

    def _teacher(self) -> Teacher:
        teacher = self._opened()
        if teacher.fingerprint != self.fingerprint:
            got, wanted = f"{teacher.fingerprint}: its weights have changed", f"{self.fingerprint}, which embedded the store"
            raise TeacherError(what="teacher", got=got, wanted=wanted, try_="mrdist prepare with the same recipe, which embeds anew")
        return teacher
