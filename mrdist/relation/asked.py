"""Which terms there are: relations by name, and the form in which each is computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from mrdist.errors import RecipeError
from mrdist.relation.careful import CarefulDivergence
from mrdist.relation.definition import REPRESENTATIONS
from mrdist.relation.differences import Difference
from mrdist.relation.moments import Squared
from mrdist.relation.quick import Contrast, Jeffrey, Kullback
from mrdist.relation.sigmoid import Sigmoid
from mrdist.relation.term import Term
from mrdist.relation.tile import Product

INTRA = ("both", "image", "text", "none")
CROSS = ("both", "point_for_image", "point_for_text", "none")

Asked: TypeAlias = Term | Squared
"""A term that tiles compute, or one that needs none."""

# Places of the scalars: of the contrast, of the student's and the teacher's intra-relations, of both in cross-relations; share, bias.
ALIGN, INTRA_SCALES, CROSS_SCALES, SHARE, BIAS = 0, (1, 2), (3, 4), 5, 6


@dataclass(frozen=True)
class Relations:
    """Which relations are distilled, and how two are compared."""

    intra: str = "both"  # among shapes, drawn to those of: both | image | text | none
    cross: str = "both"  # between modalities, with points in place of: both | point_for_image | point_for_text | none
    representation: str = "similarity"  # what a relation is: similarity | distance | cosine
    divergence: str = "jeffrey"  # of similarities: jeffrey | kl | js; of distances and cosines: l1 | l2 | huber
    diagonal: bool = False  # whether a shape relates to itself in intra-relations

    def check(self) -> None:
        """Refuse names that do not exist.

        Raises:
            RecipeError: which one, and what there is.
        """
        for key, allowed in (
            ("intra", INTRA),
            ("cross", CROSS),
            ("representation", tuple(REPRESENTATIONS)),
            ("divergence", REPRESENTATIONS.get(self.representation, ())),
        ):
            if getattr(self, key) not in allowed:
                raise RecipeError(what=key, got=repr(getattr(self, key)), wanted=f"one of {', '.join(allowed)}", try_=f"{key}={allowed[0]}")


NONE = Relations(intra="none", cross="none")
"""Contrast alone."""


@lru_cache
def asked(modalities: tuple[str, ...], relations: Relations, *, mixed: bool, sigmoid: bool) -> tuple[Asked, ...]:
    """The terms, in the order in which they are given back.

    Args:
        modalities: which there are: "points", then "image" and "text" or one of them.
        mixed: whether both teachers' intra-relations are mixed into one.
        sigmoid: whether the contrast is a sigmoid of every pair instead of a softmax of every row.
    """
    at = {name: k for k, name in enumerate(modalities)}
    names = modalities[1:]
    held: list[Asked] = []
    for name in names:
        k = at[name]
        held.append(
            Sigmoid(f"align/{name}", (0, k), (k,), (k,), ALIGN, BIAS) if sigmoid else Contrast(f"align/{name}", (0, k), (k,), (k,), ALIGN)
        )
    if mixed:
        both = at["image"], at["text"]
        teachers = tuple((k, k) for k in both)
        held.append(_compared(relations, "intra/mixture", (0, 0), teachers, both, both, INTRA_SCALES, relations.diagonal, SHARE))
    else:
        for name in names:
            if relations.intra in ("both", name):
                k = at[name]
                held.append(_compared(relations, f"intra/{name}", (0, 0), ((k, k),), (k,), (k,), INTRA_SCALES, relations.diagonal))
    for name, other in (("image", "text"), ("text", "image")):
        if relations.cross in ("both", f"point_for_{name}"):
            k, to = at[name], at[other]
            # Points stand in place of `name`: shapes without it have no teacher row.
            held.append(_compared(relations, f"cross/point_for_{name}", (0, to), ((k, to),), (k,), (to,), CROSS_SCALES, True))
    return tuple(held)


def _compared(
    relations: Relations,
    name: str,
    student: Product,
    teachers: tuple[Product, ...],
    rows: tuple[int, ...],
    columns: tuple[int, ...],
    scales: tuple[int, int],
    own_too: bool,
    share: int | None = None,
) -> Asked:
    """One relation term in the form that suits its divergence."""
    if (relations.representation, relations.divergence) == ("cosine", "l2"):
        return Squared(name, student, rows, columns, teachers, own_too, share)
    if relations.representation != "similarity":
        distance = relations.representation == "distance"
        return Difference(name, student, rows, columns, teachers, own_too, relations.divergence, distance, share)
    if share is None and relations.divergence in ("jeffrey", "kl"):
        form = Jeffrey if relations.divergence == "jeffrey" else Kullback
        return form(name, student, rows, columns, teachers, own_too, *scales)
    return CarefulDivergence(name, student, rows, columns, teachers, own_too, *scales, relations.divergence, share)
