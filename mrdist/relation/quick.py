"""The terms that need one sweep: contrast, and the Jeffrey and Kullback-Leibler divergences of two softmax rows.

Logits a = γ · student's cosine, b = β · teacher's, c = a − b; p, q their softmax over a row's columns, with normalisers Z_a, Z_b:

    (1) J(p, q) = Σ_j (p_j − q_j)(log p_j − log q_j) = E_p[c] − E_q[c]              log Z cancels, because Σ (p − q) = 0
        ∂J/∂a_k = p_k (1 + c_k − E_p[c]) − q_k          ∂J/∂b_k = q_k (1 − c_k + E_q[c]) − p_k
    (2) KL(q‖p) = −E_q[c] − log Z_b + log Z_a
        ∂KL/∂a_k = p_k − q_k                            ∂KL/∂b_k = q_k (E_q[c] − c_k)
    (3) CE_i = log(1 + n_i / e^{a_ii}), n_i = Σ_{j≠i} e^{a_ij}                      exact however small it is, unlike −log p_ii
        ∂CE_i/∂a_ij = p_ij, j ≠ i, and −n_i / Z_i for j = i                         never formed as p_ii − 1

so that sums of e^a, e^b, e^a c and e^b c over a row are all that its tiles have to say. Exponents share one offset (`tile.offset`).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from mrdist.relation.careful import CarefulContrast, CarefulDivergence
from mrdist.relation.term import Relation, Rows, Seen, Slopes, Sums, Term, Wanted
from mrdist.relation.tile import TIE, Product, Tile, offset, over_columns, over_rows

LOST = 1e-25
"""A sum below this has lost terms that matter to float32: its largest exponent was near the least that float32 holds."""


@dataclass(frozen=True)
class Contrast(Term):
    """Equation (3), rows and columns: the symmetric cross-entropy of CLIP."""

    scale: int

    @property
    def own(self) -> tuple[Product, ...]:
        return (self.student,)

    def figures(self, direction: int) -> tuple[str, ...]:
        return ("accuracy", "reference")[direction:]  # nobody asks how often columns are right

    def width(self, sweep: int, direction: int) -> int:
        return (3, 2)[direction] if sweep == 0 else 0

    def careful(self) -> Term:
        return CarefulContrast(self.name, self.student, self.rows, self.columns, self.scale, one_way=self.one_way)

    def sums(self, tile: Tile, sweep: int, rows: Tensor, columns: Tensor, *, both: bool) -> Sums:
        s = tile.cosines(self.student)
        x = tile.without_own(tile.power(self.student, self.scale))
        own = tile.rows.own[self.student] + TIE * torch.finfo(s.dtype).eps
        # In a batch the own pair never is; in a bank the own column is another picture of the shape, and no mistake.
        beaten = tile.without_own((s > own[:, None]).to(s.dtype))
        moment = x * s
        return Sums(
            over_columns((x, moment, beaten), tile.columns.has(self.columns)),
            over_rows((x, moment), tile.rows.has(self.rows)) if both else None,
        )

    def costs(self, seen: Seen) -> Rows:
        others, _, *beaten = seen.sums[0]
        scale = seen.scalars[self.scale]
        cost = torch.logaddexp(others.log() + offset(scale) - scale * seen.own, torch.zeros_like(others))
        figures = {"reference": seen.columns.clamp(min=1).log().expand_as(cost)}
        if beaten:
            figures["accuracy"] = (beaten[0] == 0).to(cost.dtype)
        return Rows(cost, figures, self._mass(seen) < LOST)

    def _mass(self, seen: Seen) -> Tensor:
        scale = seen.scalars[self.scale]
        return seen.sums[0][0] + (scale * seen.own - offset(scale)).exp()

    def coefficients(self, seen: Seen, weight: Tensor) -> Tensor:
        share = weight / self._mass(seen)
        return torch.stack([share, share * seen.sums[0][0]])

    def scalar_slopes(self, seen: Seen, weight: Tensor) -> dict[int, Tensor]:
        others, moment = seen.sums[0][:2]
        return {self.scale: (weight * (moment - seen.own * others) / self._mass(seen)).sum()}

    def slopes(self, tile: Tile, rows: Tensor, columns: Tensor, wanted: Wanted) -> Slopes:
        slope = tile.kept(tile.without_own(tile.power(self.student, self.scale)), self.rows, self.columns)
        slope = slope * (rows[0][:, None] + columns[0])
        if tile.apart is not None and not self.one_way:
            slope = tile.less_own(slope, rows[1] + columns[1])
        return Slopes({self.student: tile.scalars[self.scale] * slope}, {})


# Coefficients of a row in a divergence: 1 / Z_a, E_p[c] / Z_a, 1 / Z_b, E_q[c] / Z_b, times the row's weight.
STUDENT, STUDENT_MEAN, TEACHER, TEACHER_MEAN = range(4)


class At(NamedTuple):
    """A divergence at a tile."""

    e: Tensor  # [m, n]: e^a
    q: Tensor  # [m, n]: e^b
    c: Tensor  # [m, n]: a - b
    rows: Tensor  # [4, m]: coefficients
    columns: Tensor  # [4, n]

    def both(self, which: int) -> Tensor:
        """[m, n]: a coefficient of the row and of the column together, because a cosine belongs to both their softmaxes."""
        return self.rows[which][:, None] + self.columns[which]


@dataclass(frozen=True)
class Divergence(Relation):
    """How far a softmax row of the student's cosines is from the one teacher's."""

    student_scale: int
    teacher_scale: int

    divergence: ClassVar[str]
    """Its name among the careful ones."""

    @property
    def teacher(self) -> Product:
        """The teacher's cosines."""
        return self.teachers[0]

    @property
    def averaged(self) -> Product:
        return self.teacher

    def figures(self, direction: int) -> tuple[str, ...]:
        return "perplexity", "reference"

    def width(self, sweep: int, direction: int) -> int:
        return 5 if sweep == 0 else 0

    def careful(self) -> Term:
        return CarefulDivergence(
            self.name,
            self.student,
            self.rows,
            self.columns,
            self.teachers,
            self.own_too,
            self.student_scale,
            self.teacher_scale,
            self.divergence,
            one_way=self.one_way,
        )

    def sums(self, tile: Tile, sweep: int, rows: Tensor, columns: Tensor, *, both: bool) -> Sums:
        e, q = tile.power(self.student, self.student_scale), tile.power(self.teacher, self.teacher_scale)
        b = tile.scalars[self.teacher_scale] * tile.cosines(self.teacher)
        c = tile.scalars[self.student_scale] * tile.cosines(self.student) - b
        if not self.own_too:
            e, q = tile.without_own(e), tile.without_own(q)
        seen = (e, q, e * c, q * c, q * b)
        return Sums(over_columns(seen, tile.columns.has(self.columns)), over_rows(seen, tile.rows.has(self.rows)) if both else None)

    def costs(self, seen: Seen) -> Rows:
        za, zb, _, _, v = seen.sums[0]
        beta = seen.scalars[self.teacher_scale]
        there = (seen.columns > 0) & (seen.here > 0)
        normaliser = zb.log() + offset(beta)
        entropy = normaliser - v / zb
        even = normaliser - beta * seen.average  # −mean log q, where the mean over rows is taken
        figures = {"perplexity": entropy.exp(), "reference": self.ignorant(seen.columns.log(), even, entropy)}
        kept = {name: torch.where(there, values, 0.0) for name, values in figures.items()}
        kept["perplexity"] = torch.where(there, kept["perplexity"], 1.0)
        return Rows(torch.where(there, self.cost(seen), 0.0), kept, there & (torch.minimum(za, zb) < LOST))

    def coefficients(self, seen: Seen, weight: Tensor) -> Tensor:
        za, zb, ua, ub, _ = seen.sums[0]
        student, teacher = weight / za, weight / zb
        rows = torch.stack([student, student * ua / za, teacher, teacher * ub / zb])
        return torch.where((weight != 0) & (seen.columns > 0), rows, 0.0)

    def slopes(self, tile: Tile, rows: Tensor, columns: Tensor, wanted: Wanted) -> Slopes:
        c = tile.scalars[self.student_scale] * tile.cosines(self.student) - tile.scalars[self.teacher_scale] * tile.cosines(self.teacher)
        e, q = (
            tile.kept(tile.power(product, place), self.rows, self.columns)
            for product, place in ((self.student, self.student_scale), (self.teacher, self.teacher_scale))
        )
        # Before they meet coefficients: those are as large as what counts is small, and infinity times 0 is no number.
        at = At(*((e, q) if self.own_too else (tile.without_own(e), tile.without_own(q))), c, rows, columns)
        out = Slopes({}, {})
        for product, place, slope in (
            (self.student, self.student_scale, self.by_student),
            (self.teacher, self.teacher_scale, self.by_teacher),
        ):
            if wanted.product(product) or place in wanted.scalars:
                out.logits(tile, product, place, slope(at), wanted)
        return out

    @abstractmethod
    def cost(self, seen: Seen) -> Tensor:
        """[b], from the sums."""

    @abstractmethod
    def ignorant(self, columns: Tensor, even: Tensor, entropy: Tensor) -> Tensor:
        """[b]: what a uniform row would pay; from log M, −mean log q and the entropy of q."""

    @abstractmethod
    def by_student(self, at: At) -> Tensor:
        """∂/∂a, [m, n]."""

    @abstractmethod
    def by_teacher(self, at: At) -> Tensor:
        """∂/∂b, [m, n]."""


@dataclass(frozen=True)
class Jeffrey(Divergence):
    """Equation (1)."""

    divergence: ClassVar[str] = "jeffrey"

    def cost(self, seen: Seen) -> Tensor:
        za, zb, ua, ub, _ = seen.sums[0]
        cost: Tensor = ua / za - ub / zb
        return cost

    def ignorant(self, columns: Tensor, even: Tensor, entropy: Tensor) -> Tensor:
        return even - entropy

    def by_student(self, at: At) -> Tensor:
        return at.e * ((1 + at.c) * at.both(STUDENT) - at.both(STUDENT_MEAN)) - at.q * at.both(TEACHER)

    def by_teacher(self, at: At) -> Tensor:
        return at.q * ((1 - at.c) * at.both(TEACHER) + at.both(TEACHER_MEAN)) - at.e * at.both(STUDENT)


@dataclass(frozen=True)
class Kullback(Divergence):
    """Equation (2): what it costs to take the student's row for the teacher's."""

    divergence: ClassVar[str] = "kl"

    def cost(self, seen: Seen) -> Tensor:
        za, zb, _, ub, _ = seen.sums[0]
        gamma, beta = seen.scalars[self.student_scale], seen.scalars[self.teacher_scale]
        cost: Tensor = (za.log() + offset(gamma)) - (zb.log() + offset(beta)) - ub / zb
        return cost

    def ignorant(self, columns: Tensor, even: Tensor, entropy: Tensor) -> Tensor:
        return columns - entropy

    def by_student(self, at: At) -> Tensor:
        return at.e * at.both(STUDENT) - at.q * at.both(TEACHER)

    def by_teacher(self, at: At) -> Tensor:
        return at.q * (at.both(TEACHER_MEAN) - at.c * at.both(TEACHER))
