"""Zero-shot classification: which class's sentences does an embedding lie closest to?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrdist.errors import DataError
from mrdist.evaluation.prompts import TEMPLATES, class_table, templates

__all__ = ["TEMPLATES", "ZeroShot", "class_table", "templates", "zero_shot"]

_ROWS = 4096


@dataclass(frozen=True)
class ZeroShot:
    """How many shapes found their class. Shares of all shapes, unless said otherwise."""

    classes: tuple[str, ...]  # everything a shape could be taken for
    count: int  # shapes
    chance: float  # top-1 of a guess: 1 / number of classes
    top1: float
    top3: float  # of as many classes as there are, if there are fewer than 3
    top5: float
    mean_class: float  # mean of `per_class`: every class counts the same
    per_class: dict[str, float]  # top-1 of the shapes of each class that occurs
    confusion: NDArray[np.int64]  # [C, C]: rows what a shape is, columns what it was taken for

    def mistakes(self, most: int = 10) -> list[tuple[str, str, int]]:
        """(what it is, what it was taken for, how often), the most frequent first."""
        wrong = self.confusion - np.diag(np.diag(self.confusion))
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        rows, columns = np.unravel_index(order, wrong.shape)
        found = zip(rows.tolist(), columns.tolist(), strict=True)
        return [(self.classes[i], self.classes[j], int(wrong[i, j])) for i, j in found if wrong[i, j]]


def zero_shot(embeddings: NDArray[np.float32], labels: NDArray[np.int64], table: NDArray[np.float32], classes: Sequence[str]) -> ZeroShot:
    """Classify embeddings by the row of `table` they lie closest to.

    Args:
        embeddings: [N, E], of any length.
        labels: [N], which class each is: a row of `table`.
        table: [C, E], as `class_table` gives it.
        classes: the C names.

    A class that is exactly as close as the right one is counted as closer: a student that says the same of everything is not right.

    Raises:
        DataError: nothing to classify, shapes that do not fit, labels out of range, or numbers that are not finite.
    """
    _check(embeddings, labels, table, classes)
    better = np.empty(len(labels), dtype=np.int64)
    taken = np.empty(len(labels), dtype=np.int64)
    for first in range(0, len(labels), _ROWS):
        rows = slice(first, first + _ROWS)
        scores = embeddings[rows] @ table.T
        own = np.take_along_axis(scores, labels[rows, None], axis=1)
        better[rows] = (scores >= own).sum(1) - 1
        taken[rows] = scores.argmax(1)
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (labels, taken), 1)
    shapes = np.bincount(labels, minlength=len(classes))
    right = np.bincount(labels[better == 0], minlength=len(classes))
    per_class = {name: float(right[i] / shapes[i]) for i, name in enumerate(classes) if shapes[i]}
    return ZeroShot(
        classes=tuple(classes),
        count=len(labels),
        chance=1 / len(classes),
        top1=float((better < 1).mean()),
        top3=float((better < 3).mean()),
        top5=float((better < 5).mean()),
        mean_class=sum(per_class.values()) / len(per_class),
        per_class=per_class,
        confusion=confusion,
    )


def _check(embeddings: NDArray[np.float32], labels: NDArray[np.int64], table: NDArray[np.float32], classes: Sequence[str]) -> None:
    shapes = f"embeddings {list(embeddings.shape)}, labels {list(labels.shape)}, table {list(table.shape)}, {len(classes)} classes"
    fits = embeddings.ndim == table.ndim == 2 and embeddings.shape[1] == table.shape[1] and len(table) == len(classes)
    if not fits or labels.shape != (len(embeddings),) or len(labels) == 0:
        raise DataError(what="zero-shot", got=shapes, wanted="[N, E], [N], [C, E] and C names, N > 0", try_="a split with categories")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(
            what="zero-shot", got=f"labels {labels.min()} to {labels.max()}", wanted=f"0 to {len(classes) - 1}", try_="row numbers"
        )
    if not (np.isfinite(embeddings).all() and np.isfinite(table).all()):
        raise DataError(what="zero-shot", got="embeddings that are not finite", wanted="finite numbers", try_="an earlier checkpoint")
