"""How my rows relate to everyone's rows: each term of relation distillation, in plain autograd.

This file is the yardstick of every faster version: it says what a term *is*, in any floating dtype, and materialises [local, all] matrices
without shame. The terms re-implement the *published description* of "Multi-modal Relation Distillation for Unified 3D Representation
Learning" (ECCV 2024, arXiv 2407.14007), whose public part does not spell out its equations. What stands below is a completion consistent
with every public fact; `(ours)` marks a choice that is not in the public part.

For unit rows a, b of two modalities, a scale s and a temperature τ; rows and columns of shapes that lack a modality do not exist:

    (1) contrast     ½ CE(a, b) + ½ CE(b, a),   CE(a, b)_i = −log softmax_j(s a_i·b_j)[i]         (CLIP, OpenShape, Uni3D)
    (2) similarity   within a modality  ψ_i(j) = softmax_{j≠i}(a_i·a_j / τ);   between two  φ_i(j) = softmax_j(a_i·b_j / τ)
                     j ≠ i (ours): self-similarity is 1 in every modality and would swallow the row
    (3) distance     d_ij = ‖a_i − b_j‖ / mean ‖a − b‖   (ours, after RKD), or the bare cosine a_i·b_j
    (4) Jeffrey      J(q, r) = Σ_j (q_j − r_j)(log q_j − log r_j),   q the student's row, r the teacher's
    (5) intra        D(ψ^points, ψ^teacher)          cross   ½ D(φ^(points,b), φ^(a,b)) + ½ D(φ^(b,points), φ^(b,a)), points in place of a
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from mrdist.ranks import Ranks

# A large finite number: with -inf, (q - r)(log q - log r) is nan where both are masked. Small enough for float32 to keep it apart from
# itself less a normaliser, large enough for exp() of it to be exactly 0.
ABSENT = -1e6


class Modality(NamedTuple):
    """One modality of the global batch: unit rows, mine and everyone's, and which of them are there."""

    mine: Tensor  # [local, E]
    all: Tensor  # [all, E]
    here: Tensor  # [local] bool
    there: Tensor  # [all] bool

    @classmethod
    def of(cls, rows: Tensor, present: Tensor, ranks: Ranks) -> Modality:
        """From my rows `[local, E]` and which of them are there, `[local]` bool; gathered once, with gradient."""
        return cls(rows, ranks.gather(rows), present, ranks.gather(present))

    def where(self, other: Modality) -> Modality:
        """The same rows, of shapes only that also have `other`."""
        return Modality(self.mine, self.all, self.here & other.here, self.there & other.there)


class Relation(NamedTuple):
    """Normalised similarity, equation (2): log-probabilities over everyone's rows."""

    logp: Tensor  # [local, all]; about ABSENT where a column does not exist
    rows: Tensor  # [local] bool: rows that count


class Pairs(NamedTuple):
    """A number for every pair, equation (3): distances or cosines."""

    values: Tensor  # [local, all]
    kept: Tensor  # [local, all] bool: pairs that count
    rows: Tensor  # [local] bool: rows that count


Related: TypeAlias = Relation | Pairs


class Contrast(NamedTuple):
    """What a symmetric contrast costs each of my rows, and whether it found its own column."""

    surprise: Tensor  # [local], nats
    hit: Tensor  # [local] bool: no other column is more similar
    rows: Tensor  # [local] bool: rows that count


def between(rows: Modality, columns: Modality, ranks: Ranks, *, temperature: float | Tensor, self_too: bool = True) -> Relation:
    """Equation (2): how my rows of one modality are spread over everyone's rows of another, or of the same.

    Args:
        temperature: τ; a number or a tensor of one number.
        self_too: whether a row may relate to its own column. False within a modality, True between two: there the own column is
            the positive pair, a part of the relation (ours).

    A row whose columns all are absent is uniform, for student and teacher alike.
    """
    logits = torch.where(_pairs(rows, columns, ranks, self_too), rows.mine @ columns.all.T / temperature, ABSENT)
    return Relation(logits.log_softmax(-1), rows.here)


def cosines(rows: Modality, columns: Modality, ranks: Ranks, *, self_too: bool = True) -> Pairs:
    """a_i·b_j of my rows with everyone's."""
    return Pairs(rows.mine @ columns.all.T, rows.here[:, None] & _pairs(rows, columns, ranks, self_too), rows.here)


def distances(rows: Modality, columns: Modality, ranks: Ranks, *, self_too: bool = True) -> Pairs:
    """Equation (3): ‖a_i − b_j‖ over its mean over all pairs of all ranks; the mean is differentiated too.

    The mean is taken per matrix: images and texts of a CLIP live in two cones, and without it a loss mostly matches the gap between them.
    """
    # Not the square root of 2 - 2 a·b: its gradient is infinite for two equal rows, and the diagonal is one.
    apart = torch.cdist(rows.mine, columns.all, compute_mode="donot_use_mm_for_euclid_dist")
    kept = rows.here[:, None] & _pairs(rows, columns, ranks, self_too)
    return Pairs(apart / _mean(apart, kept, ranks).clamp(min=1e-6), kept, rows.here)


def contrast(points: Modality, others: Modality, ranks: Ranks, *, scale: float | Tensor) -> Contrast:
    """Equation (1), row by row: the mean over the marked rows of all ranks is ½ CE(points, others) + ½ CE(others, points)."""
    points, others = points.where(others), others.where(points)
    there = between(points, others, ranks, temperature=1 / scale).logp
    back = between(others, points, ranks, temperature=1 / scale).logp
    mine = own(points, ranks)[:, None]
    found = there.gather(1, mine)
    return Contrast(-(found + back.gather(1, mine))[:, 0] / 2, (found >= there).all(-1), points.here)


def jeffrey(student: Relation, teacher: Relation) -> Tensor:
    """Equation (4), `[local]`: KL(q‖r) + KL(r‖q), without a factor ½."""
    return ((student.logp.exp() - teacher.logp.exp()) * (student.logp - teacher.logp)).sum(-1)


def kl(student: Relation, teacher: Relation) -> Tensor:
    """KL(r‖q), `[local]`: what it costs to take the student's row for the teacher's."""
    return (teacher.logp.exp() * (teacher.logp - student.logp)).sum(-1)


def js(student: Relation, teacher: Relation) -> Tensor:
    """Jensen-Shannon, `[local]`: ½ KL(q‖m) + ½ KL(r‖m) with m their mean; at most log 2."""
    middle = torch.logaddexp(student.logp, teacher.logp) - math.log(2)
    return (student.logp.exp() * (student.logp - middle) + teacher.logp.exp() * (teacher.logp - middle)).sum(-1) / 2


def l1(student: Pairs, teacher: Pairs) -> Tensor:
    """Mean absolute difference, `[local]`: each row over the pairs that count."""
    return _row_mean((student.values - teacher.values).abs(), student.kept)


def l2(student: Pairs, teacher: Pairs) -> Tensor:
    """Mean squared difference, `[local]`."""
    return _row_mean((student.values - teacher.values).square(), student.kept)


def huber(student: Pairs, teacher: Pairs) -> Tensor:
    """Mean Huber difference, `[local]`: ½ x² up to |x| = 1, |x| − ½ beyond."""
    return _row_mean(torch.nn.functional.huber_loss(student.values, teacher.values, reduction="none", delta=1.0), student.kept)


DIVERGENCES: dict[str, Callable[[Relation, Relation], Tensor]] = {"jeffrey": jeffrey, "kl": kl, "js": js}
"""Between normalised similarities: name -> (student, teacher) -> [local]."""

DIFFERENCES: dict[str, Callable[[Pairs, Pairs], Tensor]] = {"l1": l1, "l2": l2, "huber": huber}
"""Between distances or cosines: name -> (student, teacher) -> [local]."""

REPRESENTATIONS: dict[str, tuple[str, ...]] = {
    "similarity": tuple(DIVERGENCES),
    "distance": tuple(DIFFERENCES),
    "cosine": tuple(DIFFERENCES),
}
"""What a relation may be, and the divergences that fit it."""


def related(
    rows: Modality, columns: Modality, ranks: Ranks, *, representation: str, temperature: float | Tensor, self_too: bool = True
) -> Related:
    """The relation that `representation`, a key of REPRESENTATIONS, names; `temperature` matters to "similarity" only."""
    if representation == "similarity":
        return between(rows, columns, ranks, temperature=temperature, self_too=self_too)
    return (distances if representation == "distance" else cosines)(rows, columns, ranks, self_too=self_too)


def divergence(student: Related, teacher: Related, name: str) -> Tensor:
    """How far my student rows are from the teacher's, `[local]`: `name` is one of what REPRESENTATIONS lists for them."""
    if isinstance(student, Relation) and isinstance(teacher, Relation):
        return DIVERGENCES[name](student, teacher)
    assert isinstance(student, Pairs)
    assert isinstance(teacher, Pairs)
    return DIFFERENCES[name](student, teacher)


def mixed(first: Related, second: Related, share: Tensor) -> Related:
    """The convex mix share · first + (1 − share) · second of two teachers (ours: D3); rows that count must count in both."""
    if isinstance(first, Relation) and isinstance(second, Relation):
        logp = torch.logaddexp(share.log() + first.logp, (1 - share).log() + second.logp)
        return Relation(logp, first.rows & second.rows)
    assert isinstance(first, Pairs)
    assert isinstance(second, Pairs)
    return Pairs(share * first.values + (1 - share) * second.values, first.kept & second.kept, first.rows & second.rows)


def ignorant(teacher: Related, ranks: Ranks) -> Related:
    """What a student that knows nothing would say: uniform rows, or everywhere the teacher's mean. Gives terms a reference value."""
    if isinstance(teacher, Relation):
        return Relation(torch.where(teacher.logp > ABSENT / 2, 0.0, ABSENT).to(teacher.logp.dtype).log_softmax(-1), teacher.rows)
    return Pairs(_mean(teacher.values, teacher.kept, ranks).expand_as(teacher.values), teacher.kept, teacher.rows)


def entropy(relation: Relation) -> Tensor:
    """−Σ_j r_j log r_j of every row, `[local]`, nats; exp of it is the perplexity: how many columns a row looks at."""
    return -(relation.logp.exp() * relation.logp).sum(-1)


def own(rows: Modality, ranks: Ranks) -> Tensor:
    """The column, among everyone's, of each of my rows: [local] int64."""
    return torch.arange(len(rows.mine), device=rows.mine.device) + ranks.rank * len(rows.mine)


def _pairs(rows: Modality, columns: Modality, ranks: Ranks, self_too: bool) -> Tensor:
    """[local, all] bool: columns that exist for my rows."""
    kept = columns.there.expand(len(rows.mine), -1)
    if self_too:
        return kept
    return kept & (own(rows, ranks)[:, None] != torch.arange(len(columns.all), device=kept.device))


def _mean(values: Tensor, kept: Tensor, ranks: Ranks) -> Tensor:
    """The mean of `values [local, all]` over the kept pairs of all ranks, whole on every rank; gradients return to their owners."""
    total = ranks.gather(torch.where(kept, values, 0.0).sum()[None]).sum()
    return total / ranks.total(kept.sum()).clamp(min=1)


def _row_mean(values: Tensor, kept: Tensor) -> Tensor:
    return torch.where(kept, values, 0.0).sum(-1) / kept.sum(-1).clamp(min=1)
