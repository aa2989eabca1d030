"""An encoder on one split of a store: zero-shot classification and retrieval, shared among ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrdist.errors import DataError, MrdistError
from mrdist.evaluation.prompts import class_table, templates
from mrdist.evaluation.report import Figures
from mrdist.evaluation.retrieval import retrieval
from mrdist.evaluation.zeroshot import zero_shot
from mrdist.progress import Progress, silent
from mrdist.ranks import Ranks
from mrdist.shapes import GREY, Points, Triplet


class Embeds(Protocol):
    """What is measured: an `Encoder`, or anything like it."""

    def encode(self, points: Sequence[Points]) -> Tensor:
        """Unit rows [B, E]."""


class Store(Protocol):
    """Where shapes, their views' and their captions' embeddings come from: a `TripletStore`, or anything like it."""

    def __getitem__(self, row: int) -> Triplet: ...

    def indices(self, split: str) -> NDArray[np.int64]: ...


class About(NamedTuple):
    """What is known of a shape besides its points, which would fill the memory."""

    id: str
    category: str
    image: NDArray[np.float16]
    text: NDArray[np.float16]


class Reads(Protocol):
    """What reads the sentences: a `Teacher`, or anything like it."""

    @property
    def fingerprint(self) -> str: ...

    def texts(self, captions: Sequence[str]) -> NDArray[np.float32]: ...


CONTRACT: dict[str, str] = {
    "axis": "z up",
    "scale": "unit sphere, box centred",
    "colour": f"sRGB 0..1; {GREY} where there is none",
}
"""What all shapes of a store keep, and so every figure."""


def evaluate_store(
    encoder: Embeds,
    store: Store,
    split: str,
    teacher: Reads,
    *,
    sentences: str = "shapes",
    classes: Sequence[str] | None = None,
    batch: int = 64,
    ranks: Ranks | None = None,
    progress: Progress = silent,
) -> Figures:
    """Measure an encoder on a split. Every rank calls; each embeds its share of the shapes, and all return the same.

    Args:
        sentences: templates by name or file, see `mrdist.evaluation.prompts.templates`.
        classes: everything a shape may be taken for; None for the categories that the split has.
        batch: shapes embedded at once.

    Shapes without a category are left out of zero-shot classification, and of nothing else.

    Raises:
        DataError: the split is empty, or holds a category that `classes` has not.
        RecipeError: there are no such sentences.
    """
    ranks = ranks or Ranks.alone()
    rows = [int(row) for row in store.indices(split)]
    if not rows:
        raise DataError(what=f"split {split!r}", got="no shape", wanted="at least one", try_="another split")
    unit, counts = _embedded(encoder, store, rows, batch, ranks, progress)
    points = unit.cpu().numpy()
    about = [_about(store[row]) for row in rows]
    named = [i for i, shape in enumerate(about) if shape.category]
    names = sorted({about[i].category for i in named}) if classes is None else list(classes)
    strange = sorted({about[i].category for i in named} - set(names))
    if strange:
        raise DataError(what=f"split {split!r}", got=f"category {strange[0]!r}", wanted="one of the classes", try_="classes=None")
    said = templates(sentences)
    contract: dict[str, Any] = {
        "shapes": len(rows),
        "shapes digest": _digest([part for shape in about for part in (shape.id, shape.category)]),
        "with category": len(named),
        "classes": len(names),
        "classes digest": _digest(names),
        "sentences": f"{sentences} ({len(said)})",
        "sentences digest": _digest(said),
        "points stored per shape": counts,
        "captions": sum(len(shape.text) for shape in about),
        "views": sum(len(shape.image) for shape in about),
    }
    found = None
    if named:
        labels = np.array([names.index(about[i].category) for i in named], dtype=np.int64)
        table = _class_table(names, said, teacher, unit, ranks, progress)
        found = zero_shot(points[named], labels, table, names)
    image, image_of = _rows([shape.image for shape in about], points.shape[1])
    text, text_of = _rows([shape.text for shape in about], points.shape[1])
    return Figures(split, contract, found, retrieval(points, image, image_of, text, text_of))


def common_contract(encoder: object, teacher: Reads) -> dict[str, Any]:
    """What every figure of an encoder was measured under: for `Report.contract`."""
    held = getattr(encoder, "contract", None)
    points = getattr(held, "points", None)
    own = {} if points is None else {"points": f"{points} per cloud"}
    return {**CONTRACT, **own, "teacher": teacher.fingerprint}


def _about(triplet: Triplet) -> About:
    return About(triplet.id, triplet.category, triplet.image, triplet.text)


def _embedded(encoder: Embeds, store: Store, rows: Sequence[int], batch: int, ranks: Ranks, progress: Progress) -> tuple[Tensor, int]:
    """Unit rows of all shapes, `[N, E]`, and how many points the largest cloud has; every rank embeds each size-th shape."""
    each = -(-len(rows) // ranks.size)
    # The last round may have no shape for some ranks: they repeat one, so that all gather the same number of rows.
    mine = [rows[min(ranks.rank + ranks.size * k, len(rows) - 1)] for k in range(each)]
    out, largest = [], 0
    for first in range(0, each, batch):
        clouds = [store[row].points for row in mine[first : first + batch]]
        largest = max(largest, *(len(cloud) for cloud in clouds))
        out.append(encoder.encode(clouds).detach().float())
        progress("embed", min((first + len(clouds)) * ranks.size, len(rows)), len(rows))
    everyones = ranks.gather(torch.cat(out)).reshape(ranks.size, each, -1).transpose(0, 1).reshape(ranks.size * each, -1)
    unit = torch.nn.functional.normalize(everyones[: len(rows)], dim=-1)
    return unit, int(ranks.largest(largest))


def _class_table(
    names: Sequence[str], sentences: Sequence[str], teacher: Reads, like: Tensor, ranks: Ranks, progress: Progress
) -> NDArray[np.float32]:
    """Unit rows of all classes, `[C, E]`: the first rank asks the teacher, which may be gigabytes, and tells the others.

    Args:
        like: rows `[..., E]`, on the device where ranks talk.
    """
    rows, trouble = np.zeros((len(names), like.shape[1]), np.float32), None
    if ranks.first:
        try:
            rows = class_table(names, sentences, teacher.texts, progress=progress)
        except MrdistError as wrong:
            trouble = wrong
    trouble = ranks.objects(trouble)[0]
    if trouble is not None:
        raise trouble
    return ranks.total(torch.from_numpy(rows).to(like.device)).cpu().numpy()


def _rows(blocks: Sequence[NDArray[np.float16]], width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All rows as float32 unit vectors, and which block each comes from."""
    owner = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    rows = np.concatenate([np.zeros((0, width), np.float32), *(np.asarray(block, np.float32).reshape(-1, width) for block in blocks)])
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), owner


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]
