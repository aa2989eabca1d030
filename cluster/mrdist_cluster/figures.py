"""How fast the pipeline is, who waits for whom, and how full the object store was."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from mrdist.progress import significant
from mrdist_cluster.rows import Report
from mrdist_cluster.settings import Fill

BUSY = 0.9
"""Share of its time from which on a pool is the one that others wait for."""


@dataclass
class Figures:
    """Sums over units; times count from the first shape, not from when the pools were hired."""

    units: int = 0
    shapes: int = 0
    skipped: int = 0
    views: int = 0
    embeddings: int = 0
    drew: float = 0.0  # seconds of all renderers together
    taught: float = 0.0
    queued: float = 0.0  # seconds that units lay between renderer and teacher, together
    first: float = 0.0  # when the first unit was begun
    last: float = 0.0
    renderers: set[str] = field(default_factory=set)  # that drew something
    teachers: set[str] = field(default_factory=set)
    fullest: Fill = field(default_factory=Fill)

    def add(self, report: Report) -> None:
        """One more unit."""
        now = time.time()
        begun = min(filter(None, (report.made - report.drew, report.taken, now)))
        self.first, self.last = min(self.first or begun, begun), now
        self.units += 1
        self.shapes += report.shapes
        self.skipped += report.skipped
        self.views += report.views
        self.embeddings += report.embeddings
        self.drew += report.drew
        self.taught += report.taught
        if report.drew:
            self.renderers.add(report.renderer)
        if report.taught:
            self.teachers.add(report.teacher)
        if report.made and report.taken:
            self.queued += report.taken - report.made

    def filled(self, fill: Fill) -> None:
        """How full the object store is now."""
        self.fullest = max(self.fullest, fill)._replace(spilled=max(self.fullest.spilled, fill.spilled))

    @property
    def seconds(self) -> float:
        """From the first unit's beginning to the last one's end."""
        return max(self.last - self.first, 1e-9)

    @property
    def rendering(self) -> float:
        """The share of their time that renderers drew."""
        return self.drew / (self.seconds * max(1, len(self.renderers)))

    @property
    def teaching(self) -> float:
        """The share of their time that teachers embedded."""
        return self.taught / (self.seconds * max(1, len(self.teachers)))

    def plain(self) -> dict[str, float]:
        """For machines."""
        names = ("units", "shapes", "skipped", "views", "embeddings", "seconds", "rendering", "teaching", "queued")
        store = {f"store_{name}": getattr(self.fullest, name) for name in Fill._fields}
        return {name: getattr(self, name) for name in names} | {"renderers": len(self.renderers), "teachers": len(self.teachers)} | store

    def line(self) -> str:
        """All of it, for people."""
        rates = {"shapes": self.shapes, "views": self.views, "embeddings": self.embeddings}
        parts = [", ".join(f"{significant(count / self.seconds)} {what}/s" for what, count in rates.items() if count)]
        if self.renderers:
            parts.append(f"{_many(len(self.renderers), 'renderer')} {self.rendering:.0%} at work")
        if self.teachers:
            parts.append(f"{_many(len(self.teachers), 'teacher')} {self.teaching:.0%} at work")
        if self.renderers and self.teachers:
            parts.append(f"{self.queued / self.seconds:.1f} units wait for a teacher")
            parts.append(self._who())
        if self.fullest.has:
            spilled = f"{self.fullest.spilled >> 20} MB spilled" if self.fullest.spilled else "nothing spilled"
            parts.append(
                f"object store {self.fullest.used / self.fullest.has:.0%} of {self.fullest.has / 2**30:.1f} GiB at most, {spilled}"
            )
        return "; ".join(filter(None, parts))

    def _who(self) -> str:
        if self.teaching >= BUSY:
            return "renderers wait for teachers" if self.rendering < BUSY else "nobody waits"
        return "teachers wait for renderers" if self.rendering >= BUSY else ""


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"
