"""Recall is what its definition says: any own caption counts, shared captions are right for both, ties are lost."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from mrdist.errors import DataError
from mrdist.evaluation import retrieval as module
from mrdist.evaluation.retrieval import Recall, retrieval

Rows = NDArray[np.float32]
NONE: Rows = np.zeros((0, 4), np.float32)
NOBODY = np.zeros(0, dtype=np.int64)


def unit(rows: int, seed: int, width: int = 4) -> Rows:
    held = np.random.default_rng(seed).normal(size=(rows, width))
    return (held / np.linalg.norm(held, axis=1, keepdims=True)).astype(np.float32)


def by_hand(queries: Rows, gallery: Rows, right: list[set[int]]) -> Recall:
    ranks = []
    for query, own in zip(queries, right, strict=True):
        if own:
            scores = [float(query @ item) for item in gallery]
            best = max(scores[j] for j in own)
            ranks.append(sum(s >= best for j, s in enumerate(scores) if j not in own))
    share = float(np.mean([len(own) / len(gallery) for own in right if own]))
    r1, r5, r10 = (float(np.mean([r < k for r in ranks])) for k in (1, 5, 10))
    return Recall(r1, r5, r10, float(np.median(ranks)) + 1, share, len(ranks), len(gallery), least_nats(queries, gallery, right))


def least_nats(queries: Rows, gallery: Rows, right: list[set[int]]) -> float:
    def nats(log_temperature: float) -> float:
        logits = queries.astype(np.float64) @ gallery.T / np.exp(log_temperature)
        return float(np.mean([logsumexp(row) - logsumexp(row[sorted(own)]) for row, own in zip(logits, right, strict=True) if own]))

    return float(minimize_scalar(nats, bounds=(np.log(0.01), np.log(0.9)), method="bounded").fun)


def close(found: Recall, wanted: Recall) -> bool:
    exact = [name for name in Recall.__dataclass_fields__ if name != "nats"]
    assert found.nats == pytest.approx(wanted.nats, abs=2e-3), "a parabola is not a search"
    return all(getattr(found, name) == pytest.approx(getattr(wanted, name)) for name in exact)


@pytest.mark.parametrize("at_once", [1 << 25, 100])
def test_all_four_directions_agree_with_loops(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NUMBERS", at_once)
    random = np.random.default_rng(0)
    points = unit(40, 1)
    image_of, text_of = np.repeat(np.arange(40), 3), np.sort(random.integers(0, 30, 70))  # ten shapes or more without a caption
    noise = 0.35 * random.normal(size=(120, 4)).astype(np.float32)
    image, text = points[image_of] + noise, points[text_of] + noise[:70]
    held = retrieval(points, image, image_of, text, text_of)
    for name, items, owner in (("image", image, image_of), ("text", text, text_of)):
        there = by_hand(points, items, [set(np.flatnonzero(owner == i).tolist()) for i in range(40)])
        back = by_hand(items, points, [{int(i)} for i in owner])
        assert close(held[f"points_to_{name}"], there)
        assert close(held[f"{name}_to_points"], back)
    assert held["text_to_points"].gallery == 40
    assert held["points_to_text"].queries == len(set(text_of.tolist())) < 40


def test_a_caption_that_two_shapes_share_is_right_for_both() -> None:
    points = np.array([[1, 0, 0, 0], [0.9, 0.1, 0, 0], [0, 1, 0, 0]], dtype=np.float32)
    text = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], dtype=np.float32)
    held = retrieval(points, NONE, NOBODY, text, np.arange(3))
    assert close(held["points_to_text"], Recall(1.0, 1.0, 1.0, 1.0, 0.5, 3, 2, 0.0))
    assert close(held["text_to_points"], Recall(1.0, 1.0, 1.0, 1.0, 0.5, 2, 3, 0.0))
    assert set(held) == {"points_to_text", "text_to_points"}


def test_any_of_several_captions_will_do() -> None:
    points = np.eye(4, dtype=np.float32)
    text = np.concatenate([np.eye(4), np.roll(np.eye(4), 1, axis=0)]).astype(np.float32)  # each shape: one right, one of its neighbour
    owner = np.tile(np.arange(4), 2)
    assert retrieval(points, NONE, NOBODY, text, owner)["points_to_text"].r1 == 1.0
    text = text[4:]
    assert retrieval(points, NONE, NOBODY, text, owner[4:])["points_to_text"].r1 == 0.0


def test_a_student_that_says_the_same_of_everything_finds_nothing() -> None:
    same = np.tile(unit(1, 3), (20, 1))
    held = retrieval(same, NONE, NOBODY, unit(20, 4), np.arange(20))
    assert held["text_to_points"].r10 == 0
    assert held["text_to_points"].median_rank == 20


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(DataError, match="owners up to 3"):
        retrieval(unit(3, 1), NONE, NOBODY, unit(1, 2), np.array([3]))
    with pytest.raises(DataError, match="retrieval of image"):
        retrieval(unit(3, 1), unit(2, 1), np.array([0]), NONE, NOBODY)
    with pytest.raises(DataError, match="not finite"):
        retrieval(unit(3, 1) * np.nan, NONE, NOBODY, unit(1, 2), np.array([0]))
