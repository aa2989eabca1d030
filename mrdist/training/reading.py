"""One step in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mrdist.clock import TALK, WAIT
from mrdist.objectives.base import Loss
from mrdist.ranks import Ranks


@dataclass(frozen=True)
class Reading:
    """What a step did: the same numbers on every rank; seconds are means over ranks."""

    step: int
    loss: float
    terms: dict[str, float]
    figures: dict[str, float]
    rate: float  # the learning rate
    gradient_norm: float  # before clipping
    seconds: float
    wait: float  # seconds for the loader
    talk: float  # seconds in collectives; what ZeRO hides behind computing is not seen
    rows: int  # of the global batch

    @property
    def compute(self) -> float:
        """Seconds that were neither wait nor talk."""
        return max(0.0, self.seconds - self.wait - self.talk)

    @property
    def strange(self) -> dict[str, float]:
        """The numbers that are not finite, by name."""
        named = {"loss": self.loss, **self.terms, "the gradient norm": self.gradient_norm}
        return {name: value for name, value in named.items() if not abs(value) < float("inf")}


def read(loss: Loss, asked: bool, *, step: int, rate: float, gradient_norm: float, rows: int, ranks: Ranks) -> tuple[Reading, bool]:
    """The reading of a step, and whether any rank was asked to stop: one small collective for both. Every rank calls."""
    spent = ranks.clock.spent()
    numbers = [float(asked), gradient_norm, spent["all"], spent.get(WAIT, 0.0), spent.get(TALK, 0.0), 0.0]
    mine = torch.tensor(numbers, dtype=torch.float64, device=loss.total.device)
    mine[-1] = loss.total.detach()
    shown = [value.detach().to(mine).reshape(1) for value in (*loss.terms.values(), *loss.figures.values())]
    # One copy from the device for everything.
    stop, norm, seconds, wait, talk, total, *rest = torch.cat([ranks.total(mine), *shown]).tolist()
    reading = Reading(
        step=step,
        loss=total / ranks.size,
        terms=dict(zip(loss.terms, rest, strict=False)),
        figures=dict(zip(loss.figures, rest[len(loss.terms) :], strict=True)),
        rate=rate,
        gradient_norm=norm / ranks.size,
        seconds=seconds / ranks.size,
        wait=wait / ranks.size,
        talk=talk / ranks.size,
        rows=rows,
    )
    return reading, stop > 0
