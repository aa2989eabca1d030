"""Retrieval between shapes and what was said or seen of them: recall in all four directions.

What counts. A *gallery* holds every distinct thing once: all shapes of a split, or all their captions, or all their views; things whose
embeddings are equal to the last bit cannot be told apart and are one. A caption that two shapes share is right for both.

* points -> text (image): every shape that has a caption (view) is a query; it is right at k if *any* caption (view) of its own is among the
  k closest.
* text (image) -> points: every distinct caption (view) is a query; it is right at k if *any* shape it belongs to is among the k closest.

A wrong thing that is exactly as close as the best right one counts as closer.

Recall is coarse: `nats` is the same question as a loss. A softmax of the scores over the gallery gives each query's right things a share;
the mean of -log of it, at the temperature at which it is least, depends on no temperature that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrdist.errors import DataError

_NUMBERS = 1 << 25  # scores held at once
_SHARPNESS = 1 / (0.01 * 2 ** (np.arange(27) / 4))
"""1 / temperature, of 0.01 to 0.9, between which `nats` is least: on a parabola through the best and its neighbours."""
_ASKED = 2048  # queries, evenly spaced, of which `nats` is the mean


@dataclass(frozen=True)
class Recall:
    """How often the right thing was among the first k; shares of the queries."""

    r1: float
    r5: float
    r10: float
    median_rank: float  # of the best right thing; 1 is first
    chance: float  # r1 of a guess
    queries: int
    gallery: int
    nats: float | None = None  # cross-entropy of the right things; None: measured before there was this


def retrieval(
    points: NDArray[np.float32],
    image: NDArray[np.float32],
    image_of: NDArray[np.int64],
    text: NDArray[np.float32],
    text_of: NDArray[np.int64],
) -> dict[str, Recall]:
    """Recall in all four directions; a direction without a single caption or view is left out.

    Args:
        points: [N, E] unit rows, one per shape.
        image: [V, E] unit rows; `image_of` [V] says which shape each view shows.
        text: [T, E] unit rows; `text_of` [T] says which shape each caption belongs to.

    Returns:
        "points_to_text", "text_to_points", "points_to_image", "image_to_points" -> Recall

    Raises:
        DataError: shapes that do not fit, an owner that does not exist, or numbers that are not finite.
    """
    held: dict[str, Recall] = {}
    for name, items, owner in (("text", text, text_of), ("image", image, image_of)):
        _check(points, items, owner, name)
        if not len(items):
            continue
        distinct, which = _distinct(items)
        pairs = np.unique(np.stack([owner, which], axis=1), axis=0)  # [P, 2]: shape, distinct thing
        held[f"points_to_{name}"] = recall(points, distinct, pairs)
        held[f"{name}_to_points"] = recall(distinct, points, pairs[:, ::-1])
    return held


def recall(queries: NDArray[np.float32], gallery: NDArray[np.float32], pairs: NDArray[np.int64]) -> Recall:
    """Recall of queries `[Q, E]` in a gallery `[G, E]`.

    Args:
        pairs: [P, 2], which gallery row is right for which query row; a query without one is not asked.
    """
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    asked = np.unique(pairs[:, 0])
    ranks = np.empty(len(asked), dtype=np.int64)
    surprise: list[NDArray[np.float64]] = []
    rows, every = max(1, _NUMBERS // len(gallery)), -(-len(asked) // _ASKED)
    for first in range(0, len(asked), rows):
        some = asked[first : first + rows]
        low, high = np.searchsorted(pairs[:, 0], [some[0], some[-1] + 1])
        right = np.zeros((len(some), len(gallery)), dtype=bool)
        right[np.searchsorted(some, pairs[low:high, 0]), pairs[low:high, 1]] = True
        scores = queries[some] @ gallery.T
        best = np.where(right, scores, -np.inf).max(1, keepdims=True)
        ranks[first : first + rows] = ((scores >= best) & ~right).sum(1)
        spaced = slice(-first % every, None, every)
        surprise.append(_surprise((scores - best)[spaced], right[spaced]))
    r1, r5, r10 = (float((ranks < k).mean()) for k in (1, 5, 10))
    chance = len(pairs) / len(asked) / len(gallery)
    nats = _least(np.concatenate(surprise, axis=1).mean(1))
    return Recall(r1, r5, r10, float(np.median(ranks) + 1), chance, len(asked), len(gallery), nats)


def _surprise(ahead: NDArray[np.float32], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """-log of the share of the right things, `[S, Q]`, of scores less the best right one's: then their own sum is never 0."""
    out = []
    for sharpness in _SHARPNESS:
        weights = np.exp(sharpness * ahead, dtype=np.float64)
        out.append(np.log(weights.sum(1) / (weights * right).sum(1)))
    return np.stack(out)


def _least(values: NDArray[np.float64]) -> float:
    """The minimum of a parabola through the smallest of evenly spaced values and its neighbours."""
    k = int(values.argmin())
    if k in (0, len(values) - 1):
        return float(values[k])
    before, least, after = values[k - 1 : k + 2]
    bend = before - 2 * least + after
    return float(least - (after - before) ** 2 / (8 * bend)) if bend > 0 else float(least)


def _distinct(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows without repetition, and which of them each row is."""
    as_bytes = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize * rows.shape[1])))[:, 0]
    _, first, which = np.unique(as_bytes, return_index=True, return_inverse=True)
    return rows[first], which.reshape(-1)


def _check(points: NDArray[np.float32], items: NDArray[np.float32], owner: NDArray[np.int64], name: str) -> None:
    shapes = f"points {list(points.shape)}, {name} {list(items.shape)}, owners {list(owner.shape)}"
    if points.ndim != 2 or items.ndim != 2 or points.shape[1] != items.shape[1] or owner.shape != (len(items),) or not len(points):
        raise DataError(what=f"retrieval of {name}", got=shapes, wanted="[N, E], [M, E] and [M], N > 0", try_="rows of one teacher")
    if len(owner) and (owner.min() < 0 or owner.max() >= len(points)):
        raise DataError(
            what=f"retrieval of {name}", got=f"owners up to {owner.max()}", wanted=f"0 to {len(points) - 1}", try_="row numbers"
        )
    if not (np.isfinite(points).all() and np.isfinite(items).all()):
        raise DataError(
            what=f"retrieval of {name}", got="embeddings that are not finite", wanted="finite numbers", try_="an earlier checkpoint"
        )
