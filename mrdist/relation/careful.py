"""The terms that take several sweeps: any divergence of softmax rows, mixed teachers, and whatever the quick forms would lose.

First the largest logit of every row (an exponent's offset of its own, instead of one for all), then its normaliser, then the
divergence of log-probabilities: for f(log q_j, log r_j) summed over a row's columns, with q = softmax(a), r = softmax(b),

    ∂/∂a_k = f'_k − q_k Σ_j f'_j,  f' = ∂f/∂log q                ∂/∂b_k = f°_k − r_k Σ_j f°_j,  f° = ∂f/∂log r

A mixture m = Σ_t ω_t r^t of teachers enters with log m in place of log r; ∂ log m/∂ log r^t = ω_t r^t / m is what teacher t answers
for, and ∂/∂ω_t = Σ_j f°_j r^t_j / m_j.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from mrdist.relation.definition import ABSENT
from mrdist.relation.term import Relation, Rows, Seen, Slopes, Sums, Term, Wanted
from mrdist.relation.tile import TIE, Product, Tile, over_columns, over_rows


class Integrand(NamedTuple):
    """A divergence at every pair, with its derivatives by both log-probabilities."""

    value: Tensor
    by_student: Tensor
    by_teacher: Tensor


def _jeffrey(q: Tensor, r: Tensor) -> Integrand:
    p, t, c = q.exp(), r.exp(), q - r
    return Integrand((p - t) * c, p * c + p - t, -t * c - p + t)


def _kl(q: Tensor, r: Tensor) -> Integrand:
    t = r.exp()
    return Integrand(t * (r - q), -t, t * (r - q) + t)


def _js(q: Tensor, r: Tensor) -> Integrand:
    middle = torch.logaddexp(q, r) - math.log(2)
    by_student, by_teacher = q.exp() * (q - middle) / 2, r.exp() * (r - middle) / 2
    return Integrand(by_student + by_teacher, by_student, by_teacher)


INTEGRANDS: dict[str, Callable[[Tensor, Tensor], Integrand]] = {"jeffrey": _jeffrey, "kl": _kl, "js": _js}


@dataclass(frozen=True)
class CarefulContrast(Term):
    """The symmetric cross-entropy, with an exponent's offset per row: for data of which a row is far from every column."""

    scale: int

    reductions: ClassVar[tuple[str, ...]] = ("max", "sum")

    @property
    def own(self) -> tuple[Product, ...]:
        return (self.student,)

    def figures(self, direction: int) -> tuple[str, ...]:
        return ("accuracy", "reference")[direction:]

    def width(self, sweep: int, direction: int) -> int:
        return (1, (3, 2)[direction])[sweep] if sweep < 2 else 0

    def _logits(self, tile: Tile) -> Tensor:
        return tile.logits(self.student, self.scale, self.rows, self.columns, own_too=False)

    def sums(self, tile: Tile, sweep: int, rows: Tensor, columns: Tensor, *, both: bool) -> Sums:
        s, a = tile.cosines(self.student), self._logits(tile)
        if sweep == 0:
            return Sums(a.amax(1)[None], a.amax(0)[None] if both else None)
        exist = a > ABSENT / 2
        own = tile.rows.own[self.student] + TIE * torch.finfo(s.dtype).eps
        beaten = ((s > own[:, None]) & exist).to(s.dtype)
        x, y = ((a - peak).exp() * exist for peak in (rows[0][:, None], columns[0]))
        return Sums(over_columns((x, x * s, beaten), None), over_rows((y, y * s), None) if both else None)

    def settled(self, seen: Seen) -> Tensor:
        return seen.sums[0]

    def _surprise(self, seen: Seen) -> Tensor:
        """log(n_i / e^{a_ii}): how the others stand to the own column."""
        return seen.sums[1][0].log() + seen.sums[0][0] - seen.scalars[self.scale] * seen.own

    def costs(self, seen: Seen) -> Rows:
        surprise, (_, _, *beaten) = self._surprise(seen), seen.sums[1]
        cost = torch.logaddexp(surprise, torch.zeros_like(surprise))
        figures = {"reference": seen.columns.clamp(min=1).log().expand_as(cost)}
        if beaten:
            figures["accuracy"] = (beaten[0] == 0).to(cost.dtype)
        return Rows(cost, figures, torch.zeros_like(cost, dtype=torch.bool))

    def coefficients(self, seen: Seen, weight: Tensor) -> Tensor:
        surprise = self._surprise(seen)
        normaliser = torch.logaddexp(surprise, torch.zeros_like(surprise)) + seen.scalars[self.scale] * seen.own
        return torch.stack([normaliser, weight, weight * surprise.sigmoid()])

    def scalar_slopes(self, seen: Seen, weight: Tensor) -> dict[int, Tensor]:
        others, moment = seen.sums[1][:2]
        # The mean cosine of the others less the own one, as far as the others have the row.
        apart = torch.where(others > 0, moment / others - seen.own, 0.0)
        return {self.scale: (weight * apart * self._surprise(seen).sigmoid()).sum()}

    def slopes(self, tile: Tile, rows: Tensor, columns: Tensor, wanted: Wanted) -> Slopes:
        a = self._logits(tile)
        # Nothing is likelier than 1, but by rounding; and what is no row has no normaliser: without a bound 0 times it could be nan.
        slope = (a - rows[0][:, None]).clamp(max=0).exp() * rows[1][:, None] + (a - columns[0]).clamp(max=0).exp() * columns[1]
        if tile.apart is not None and not self.one_way:
            slope = tile.less_own(slope, rows[2] + columns[2])
        return Slopes({self.student: tile.scalars[self.scale] * slope}, {})


@dataclass(frozen=True)
class CarefulDivergence(Relation):
    """A divergence of the student's softmax rows from a teacher's, or from a mixture of two teachers'."""

    student_scale: int
    teacher_scale: int
    divergence: str  # a key of INTEGRANDS
    share: int | None = None  # of the first of two teachers: its place among the scalars

    reductions: ClassVar[tuple[str, ...]] = ("max", "sum", "sum")

    def figures(self, direction: int) -> tuple[str, ...]:
        return "perplexity", "reference"

    def width(self, sweep: int, direction: int) -> int:
        logits = 1 + len(self.teachers)
        return (logits, logits, 4 + len(self.teachers))[sweep] if sweep < 3 else 0

    def _logits(self, tile: Tile) -> list[Tensor]:
        scales = (self.student_scale, *(self.teacher_scale for _ in self.teachers))
        return [
            tile.logits(product, scale, self.rows, self.columns, own_too=self.own_too)
            for product, scale in zip(self.products, scales, strict=True)
        ]

    def _shares(self, tile: Tile) -> list[Tensor]:
        if self.share is None:
            return []
        first = tile.scalars[self.share]
        return [first, 1 - first]

    def _taught(self, tile: Tile, logps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The teacher's log-probabilities, and per teacher what it answers for of each: its share there."""
        if self.share is None:
            return logps[0], [torch.ones_like(logps[0])]
        parts = [share.log() + logp for share, logp in zip(self._shares(tile), logps, strict=True)]
        taught = torch.logaddexp(parts[0], parts[1])
        return taught, [(part - taught).exp() for part in parts]

    def sums(self, tile: Tile, sweep: int, rows: Tensor, columns: Tensor, *, both: bool) -> Sums:
        logits = self._logits(tile)
        if sweep == 0:
            return Sums(torch.stack([a.amax(1) for a in logits]), torch.stack([a.amax(0) for a in logits]) if both else None)
        out = []
        for dim, known in ((1, rows[:, :, None]), (0, columns[:, None, :])):
            logps = [a - k for a, k in zip(logits, known, strict=False)]
            if sweep == 1:
                out.append(torch.stack([logp.exp().sum(dim) for logp in logps]))
                continue
            taught, parts = self._taught(tile, logps[1:])
            held = INTEGRANDS[self.divergence](logps[0], taught)
            even = torch.where(logits[0] > ABSENT / 2, known[-1], taught)  # a uniform row; where no column is, as the teacher
            ignorant = INTEGRANDS[self.divergence](even, taught).value
            entropy = -taught.exp() * taught
            out.append(
                torch.stack([v.sum(dim) for v in (held.value, held.by_student, entropy, ignorant, *(held.by_teacher * p for p in parts))])
            )
        return Sums(out[0], out[1] if both else None)

    def settled(self, seen: Seen) -> Tensor:
        if len(seen.sums) == 1:
            return seen.sums[0]
        return torch.cat([self._normalisers(seen), -seen.columns.clamp(min=1).log().expand_as(seen.own)[None]])

    def _normalisers(self, seen: Seen) -> Tensor:
        return seen.sums[0] + seen.sums[1].log()

    def costs(self, seen: Seen) -> Rows:
        cost, _, entropy, ignorant = seen.sums[2][:4]
        there = (seen.columns > 0) & (seen.here > 0)
        figures = {"perplexity": torch.where(there, entropy.exp(), 1.0), "reference": torch.where(there, ignorant, 0.0)}
        return Rows(torch.where(there, cost, 0.0), figures, torch.zeros_like(there))

    def coefficients(self, seen: Seen, weight: Tensor) -> Tensor:
        there = seen.columns > 0
        weight = weight * there
        _, by_student, _, _, *by_teacher = seen.sums[2]
        rows = torch.stack([weight, weight * by_student, *(weight * t for t in by_teacher)])
        return torch.cat([self._normalisers(seen), torch.where(weight != 0, rows, 0.0)])

    def scalar_slopes(self, seen: Seen, weight: Tensor) -> dict[int, Tensor]:
        if self.share is None:
            return {}
        first, second = seen.sums[2][4:]
        share = seen.scalars[self.share]
        slope = torch.where(weight != 0, first / share - second / (1 - share), 0.0)
        return {self.share: (weight * slope * (seen.columns > 0)).sum()}

    def slopes(self, tile: Tile, rows: Tensor, columns: Tensor, wanted: Wanted) -> Slopes:
        logits, count = self._logits(tile), 1 + len(self.teachers)
        slopes = [torch.zeros_like(logits[0]) for _ in logits]
        for known in (rows[:, :, None], columns[:, None, :]):
            logps = [(a - k).clamp(max=0) for a, k in zip(logits, known, strict=False)]  # as above
            weight, by_student, *by_teacher = known[count:]
            taught, parts = self._taught(tile, logps[1:])
            held = INTEGRANDS[self.divergence](logps[0], taught)
            slopes[0] += weight * held.by_student - logps[0].exp() * by_student
            for k, (part, whole) in enumerate(zip(parts, by_teacher, strict=True), start=1):
                slopes[k] += weight * held.by_teacher * part - logps[k].exp() * whole
        out = Slopes({}, {})
        places = (self.student_scale, *(self.teacher_scale for _ in self.teachers))
        for product, place, slope, exist in zip(self.products, places, slopes, logits, strict=True):
            # Where no pair is, log-probabilities are far below anything but finite: what is left of them must not count.
            out.logits(tile, product, place, torch.where(exist > ABSENT / 2, slope, 0.0), wanted)
        return out
