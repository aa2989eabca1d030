"""Which size a budget of compute buys most with: the lower envelope of training curves (Hoffmann et al. 2022, section 3.1).

Training loss against flops spent, one curve per size, mean over seeds. What it cannot see: at budgets below a run's own end its learning
rate has not come down yet, which favours the size that ends there. Sizes whose runs ended earlier cannot be compared any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrdist.scaling.results import Result

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Stretch:
    """From one budget to another, the same size is best."""

    size: str
    start: float  # flops
    end: float


@dataclass(frozen=True)
class Optimum:
    """The best size along all budgets at which at least two can be compared."""

    stretches: tuple[Stretch, ...]

    @property
    def best(self) -> Stretch:
        """The size at the largest budget."""
        return self.stretches[-1]


def optimum(results: Sequence[Result], points: int = 200) -> Optimum | None:
    """The best size by budget, of the runs of one objective on all data; None where no two sizes can be compared."""
    curves = {size: _mean([r for r in results if r.size == size]) for size in dict.fromkeys(r.size for r in results)}
    curves = {size: curve for size, curve in curves.items() if curve.size}
    if len(curves) < 2:
        return None
    starts = sorted(curve[0, 0] for curve in curves.values())
    ends = sorted(curve[-1, 0] for curve in curves.values())
    if starts[1] >= ends[-2]:
        return None
    found: list[Stretch] = []
    for budget in np.geomspace(starts[1], ends[-2], points):
        there = {
            size: float(np.interp(np.log(budget), np.log(curve[:, 0]), curve[:, 1]))
            for size, curve in curves.items()
            if curve[0, 0] <= budget * (1 + 1e-9) and budget <= curve[-1, 0] * (1 + 1e-9)
        }
        if len(there) < 2:
            continue
        size = min(there, key=lambda name: there[name])
        if found and found[-1].size == size:
            found[-1] = Stretch(size, found[-1].start, float(budget))
        else:
            found.append(Stretch(size, float(budget), float(budget)))
    return Optimum(tuple(found)) if found else None


def _mean(results: Sequence[Result]) -> Numbers:
    """[M, 2]: flops and loss, mean over seeds that were trained as long."""
    length = min((len(r.curve) for r in results), default=0)
    return np.array([r.curve[:length] for r in results], np.float64).mean(0) if length else np.zeros((0, 2))
