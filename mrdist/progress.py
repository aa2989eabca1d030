"""How long work says how far it is, without printing, and how seconds and other numbers are written."""

from __future__ import annotations

import math
from typing import Protocol


class Progress(Protocol):
    """Called now and then by long work; `done` of `total` units of `stage` are finished."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """Progress for nobody."""


def duration(seconds: float) -> str:
    """0:41, 1:02:03, 3 d 4 h."""
    whole = round(seconds)
    if whole >= 86400:
        return f"{whole // 86400} d {whole % 86400 // 3600} h"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def significant(number: float) -> str:
    """Three significant digits, thousands separated, no exponent: 0.0123, 4.2, 86, 6,120, 1,260,000."""
    if not number:
        return "0"
    places = 2 - math.floor(math.log10(abs(number)))
    text = f"{round(number, places):,.{max(places, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
