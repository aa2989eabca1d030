"""How long work says how far it is, without printing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called now and then by long work; `done` of `total` units of `stage` are finished."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """Progress for nobody."""
