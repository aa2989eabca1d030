"""L(N) = E + A N^-alpha, fitted, with intervals; and whether the data support it.

The law of Kaplan et al. 2020 (arXiv 2001.08361) and Hoffmann et al. 2022 (arXiv 2203.15556, section 3.3, whose way of fitting this is: a
Huber loss of differences of logarithms, from many starts). With fractions of the data there is a second term, B D^-beta. Intervals come
from a bootstrap of residuals, made larger by sqrt(n / (n - p)) for the numbers that were fitted (Davison & Hinkley 1997, section 6.2.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

HUBER = 0.02
"""Differences of logarithms beyond which a point counts less: of 2 %."""
STEEPEST = 4.0
SIGNIFICANT = 0.01
SIZES = 4
"""Fewer sizes than this determine nothing: a curve of three numbers goes through any three points."""


@dataclass(frozen=True)
class Interval:
    """An estimate and where 95 % of the resampled ones lie."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Law:
    """What was fitted. `reasons` says why the data do not support it; empty: they do."""

    floor: Interval  # E, nats
    scale: dict[str, Interval]  # A, B, ..: what a variable's term is at its geometric mean, nats
    power: dict[str, Interval]  # alpha, beta, ..
    centre: dict[str, float]  # geometric means: terms are scale * (variable / centre) ** -power
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    resampled: Numbers = field(repr=False)  # [resamples, 1 + 2 variables]: log E, then log A and alpha of each variable

    @property
    def supported(self) -> bool:
        """Whether the data support it."""
        return not self.reasons

    def at(self, variables: Mapping[str, Numbers]) -> Numbers:
        """The loss at some values, each `[M]`."""
        best = [np.log(max(self.floor.value, 1e-12))]
        for name in self.power:
            best += [np.log(self.scale[name].value), self.power[name].value]
        return _loss(np.array(best), self._logs(variables))

    def band(self, variables: Mapping[str, Numbers]) -> tuple[Numbers, Numbers]:
        """Where 95 % of the resampled curves lie, `[M]` and `[M]`."""
        curves = np.stack([_loss(theta, self._logs(variables)) for theta in self.resampled])
        low, high = np.quantile(curves, [0.025, 0.975], axis=0)
        return low, high

    def _logs(self, variables: Mapping[str, Numbers]) -> Numbers:
        return np.stack([np.log(np.asarray(variables[name], np.float64) / self.centre[name]) for name in self.power])


def fit(loss: Sequence[float], variables: Mapping[str, Sequence[float]], *, seed: int = 0, resamples: int = 400) -> Law | str:
    """The law of `loss` in one or more variables, the first of which is size; or, in words, why nothing can be fitted.

    Args:
        loss: [n], nats, one per run; runs of equal variables differ by their seeds.
        variables: by name, each [n]: `fit(loss, {"N": parameters})`.
        seed: of the bootstrap.
    """
    y = np.asarray(loss, np.float64)
    raw = np.stack([np.asarray(values, np.float64) for values in variables.values()])
    names, count = list(variables), len(raw)
    for name, values in zip(names, raw, strict=True):
        different = len(np.unique(values))
        if different < SIZES - (name != names[0]):
            return f"{different} different {name}: at least {SIZES - (name != names[0])} are needed"
    numbers = 1 + 2 * count
    if len(y) <= numbers:
        return f"{len(y)} runs for {numbers} numbers"
    if not (np.isfinite(y).all() and (y > 0).all()):
        return "losses that are not positive numbers"
    centre = np.exp(np.log(raw).mean(1, keepdims=True))
    x = np.log(raw / centre)
    best = min((_solved(start, x, y) for start in _starts(y, count)), key=lambda theta: _cost(theta, x, y))
    fitted = _loss(best, x)
    residuals = np.log(y / fitted)
    spread = (residuals - residuals.mean()) * np.sqrt(len(y) / (len(y) - numbers))
    random = np.random.default_rng(seed)
    again = np.stack([_solved(best, x, fitted * np.exp(random.choice(spread, len(y))), tries=40) for _ in range(resamples)])
    low, high = np.quantile(again, [0.025, 0.975], axis=0)
    held = [Interval(*(float(v) for v in row)) for row in zip(best, low, high, strict=True)]
    floor, *pairs = held
    powers = dict(zip(names, pairs[1::2], strict=True))
    return Law(
        floor=_exp(floor), scale={name: _exp(pair) for name, pair in zip(names, pairs[::2], strict=True)}, power=powers,
        centre=dict(zip(names, centre[:, 0].tolist(), strict=True)), reasons=tuple(_reasons(powers, x, y, residuals)),
        notes=tuple(_notes(_exp(floor), y)), resampled=again,
    )  # fmt: skip


def _exp(held: Interval) -> Interval:
    return Interval(float(np.exp(held.value)), float(np.exp(held.low)), float(np.exp(held.high)))


def _loss(theta: Numbers, x: Numbers) -> Numbers:
    """E + sum of A exp(-alpha x), `[M]`; theta is log E, then log A and alpha of each row of `x [V, M]`."""
    terms = np.exp(theta[1::2, None] - theta[2::2, None] * x).sum(0)
    total: Numbers = np.exp(theta[0]) + terms
    return total


def _starts(y: Numbers, count: int) -> list[Numbers]:
    shares = [(floor, power) for floor in (0.02, 0.5, 0.9) for power in (0.1, 0.4, 1.0, 2.0)]
    least, middle = float(y.min()), float(np.median(y))
    return [
        np.array([np.log(floor * least), *[np.log(max(middle - floor * least, 1e-3 * least) / count), power] * count])
        for floor, power in shares
    ]


def _solved(start: Numbers, x: Numbers, y: Numbers, tries: int = 200) -> Numbers:
    """The numbers of the least Huber loss of log differences, from a start."""
    from scipy.optimize import least_squares

    target, least, most = np.log(y), np.log(y.min()), np.log(y.max())
    low = np.array([least - 7, *[least - 12, -1.0] * len(x)])
    high = np.array([least, *[most + 3, STEEPEST] * len(x)])

    def off(theta: Numbers) -> Numbers:
        return np.log(_loss(theta, x)) - target

    def slope(theta: Numbers) -> Numbers:
        terms = np.exp(theta[1::2, None] - theta[2::2, None] * x)
        total = np.exp(theta[0]) + terms.sum(0)
        columns = [np.exp(theta[0]) / total]
        for term, values in zip(terms, x, strict=True):
            columns += [term / total, -values * term / total]
        return np.stack(columns, axis=1)

    begin = np.clip(start, low + 1e-6, high - 1e-6)
    found: Numbers = least_squares(off, begin, jac=slope, bounds=(low, high), loss="huber", f_scale=HUBER, max_nfev=tries).x
    return found


def _cost(theta: Numbers, x: Numbers, y: Numbers) -> float:
    off = np.abs(np.log(_loss(theta, x)) - np.log(y)) / HUBER
    return float(np.where(off <= 1, off**2, 2 * off - 1).sum())


def _reasons(powers: Mapping[str, Interval], x: Numbers, y: Numbers, residuals: Numbers) -> list[str]:
    """Why the data do not support the law."""
    from scipy.stats import f as fisher

    out, log, numbers, runs = [], np.log(y), 1 + 2 * len(x), len(y)
    flat, left = float(((log - log.mean()) ** 2).sum()), float((residuals**2).sum())
    gain = (flat - left) / (numbers - 1) / max(left / (runs - numbers), 1e-300)
    chance = float(fisher.sf(max(gain, 0.0), numbers - 1, runs - numbers))
    if chance > SIGNIFICANT:
        out.append(f"a constant does nearly as well: chance alone would give as much in {chance:.0%} of cases")
    for name, power in powers.items():
        if power.low <= 0:
            out.append(f"the interval of {name}'s power, {power.low:.2f} to {power.high:.2f}, includes 0")
        elif power.high > 5 * power.low:
            out.append(f"the interval of {name}'s power, {power.low:.2f} to {power.high:.2f}, is too wide to say one")
    places, group = np.unique(x, axis=1, return_inverse=True)
    group = group.reshape(-1)
    means = np.array([log[group == k].mean() for k in range(places.shape[1])])
    counts = np.bincount(group)
    scatter = float(((log - means[group]) ** 2).sum())
    free = runs - len(counts)
    if len(x) == 1:
        error = np.sqrt(scatter / free) if free > 0 else 0.0
        for k in range(1, len(means)):
            rise, doubt = means[k] - means[k - 1], error * np.sqrt(1 / counts[k] + 1 / counts[k - 1])
            if rise > 2 * doubt and rise > 0.005:
                out.append(f"loss is not monotone: it rises by {rise:.1%} from size {k} to size {k + 1}")
    if free > 0 and len(counts) > numbers:
        miss = max(left - scatter, 0.0) / (len(counts) - numbers) / max(scatter / free, 1e-300)
        if left > 1e-6 * runs and (p := float(fisher.sf(miss, len(counts) - numbers, free))) < SIGNIFICANT:
            out.append(f"the curve misses the means of sizes by more than seeds scatter (p = {p:.1g})")
    return out


def _notes(floor: Interval, y: Numbers) -> list[str]:
    return ["the floor E cannot be told from 0"] if floor.low < 0.02 * float(y.min()) else []
