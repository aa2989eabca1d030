"""Zero-shot figures are counts, and no student gets them for nothing."""

from __future__ import annotations

import numpy as np
import pytest

from mrdist.errors import DataError
from mrdist.evaluation.zeroshot import zero_shot

NAMES = ("cone", "cube", "cylinder", "sphere")


def test_figures_are_what_one_counts_by_hand() -> None:
    table = np.eye(4, dtype=np.float32)
    embeddings = np.array(
        [[0.9, 0.1, 0, 0], [0.2, 0.8, 0.1, 0], [0.5, 0.4, 0.6, 0.7], [0, 0.9, 0.1, 0.2], [0.4, 0.3, 0.2, 0.1]], dtype=np.float32
    )
    held = zero_shot(embeddings, np.array([0, 0, 2, 3, 3]), table, NAMES)
    assert (held.count, held.chance) == (5, 0.25)
    assert (held.top1, held.top3, held.top5) == (0.2, 0.8, 1.0)
    assert held.per_class == {"cone": 0.5, "cylinder": 0.0, "sphere": 0.0}
    assert held.mean_class == pytest.approx(1 / 6)
    assert held.confusion.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [1, 1, 0, 0]]
    assert held.mistakes(2) == [("cone", "cube", 1), ("cylinder", "sphere", 1)]


def test_figures_agree_with_loops_on_random_embeddings() -> None:
    random = np.random.default_rng(0)
    embeddings, table = random.normal(size=(5000, 6)).astype(np.float32), random.normal(size=(11, 6)).astype(np.float32)
    labels = random.integers(0, 11, 5000)
    held = zero_shot(embeddings, labels, table, [str(i) for i in range(11)])
    ranks = [sum(float(e @ table[c]) > float(e @ table[y]) for c in range(11)) for e, y in zip(embeddings, labels, strict=True)]
    for k, value in ((1, held.top1), (3, held.top3), (5, held.top5)):
        assert value == pytest.approx(np.mean([r < k for r in ranks]), abs=2e-4)
    assert held.confusion.sum() == 5000
    assert np.trace(held.confusion) / 5000 == pytest.approx(held.top1)
    assert abs(held.top1 - held.chance) < 0.05


def test_a_student_that_says_the_same_of_everything_is_never_right() -> None:
    held = zero_shot(np.zeros((6, 4), np.float32), np.array([0, 1, 2, 3, 0, 1]), np.eye(4, dtype=np.float32), NAMES)
    assert held.top1 == held.top3 == 0


def test_with_three_classes_the_top_five_are_all() -> None:
    held = zero_shot(-np.eye(3, dtype=np.float32), np.arange(3), np.eye(3, dtype=np.float32), NAMES[:3])
    assert (held.top1, held.top3, held.top5) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("embeddings", "labels", "what"),
    [
        (np.zeros((0, 4), np.float32), np.zeros(0, int), "N > 0"),
        (np.zeros((2, 3), np.float32), np.zeros(2, int), "embeddings"),
        (np.zeros((2, 4), np.float32), np.array([0, 4]), "labels 0 to 4"),
        (np.full((2, 4), np.nan, np.float32), np.zeros(2, int), "not finite"),
    ],
)
def test_what_cannot_be_classified_is_named(embeddings: np.ndarray, labels: np.ndarray, what: str) -> None:
    with pytest.raises(DataError, match=what):
        zero_shot(embeddings, labels, np.eye(4, dtype=np.float32), NAMES)
