"""An encoder on a test set that was converted: zero-shot under the contract that the set carries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mrdist.data.converted import Converted
from mrdist.errors import DataError
from mrdist.evaluation.prompts import spoken
from mrdist.evaluation.report import Figures
from mrdist.evaluation.store import Embeds, Reads, evaluate_store
from mrdist.progress import Progress, silent
from mrdist.ranks import Ranks
from mrdist.shapes import Triplet
from mrdist.teachers.precomputed import Precomputed


class Clouds:
    """Shapes without what another teacher said of them."""

    def __init__(self, held: Converted) -> None:
        self._store = held.store

    def __getitem__(self, row: int) -> Triplet:
        nothing = np.zeros((0, 0), np.float16)
        return replace(self._store[row], image=nothing, text=nothing, captions=())

    def indices(self, split: str) -> NDArray[np.int64]:
        """The rows of a split."""
        return self._store.indices(split)


def evaluate_converted(
    encoder: Embeds,
    held: Converted,
    splits: Sequence[str],
    *,
    space: str,
    teacher: Callable[[], Reads],
    sentences: str = "shapes",
    batch: int = 64,
    ranks: Ranks | None = None,
    progress: Progress = silent,
) -> tuple[Reads, tuple[Figures, ...]]:
    """Measure an encoder on some splits of a converted store. Every rank calls.

    Where the store says what this encoder's own teacher thinks of the classes, that is what clouds are compared with, and `sentences`
    are not looked at; and what the same teacher says of views and captions serves for retrieval. Otherwise the teacher is opened and
    reads the sentences, and there is no retrieval.

    Args:
        space: the teacher whose space the embeddings lie in, "MODEL:TAG"; empty if nobody knows.
        teacher: opens it.

    Returns:
        who read the names of the classes, and a table of figures per split.

    Raises:
        DataError: no such split, or rows of another length than the embeddings.
        TeacherError: the teacher is needed, and cannot be had.
    """
    mine = bool(space) and held.teacher == space
    told = mine and len(held.rows) > 0
    reads: Reads = _said(held) if told else teacher()
    store = held.store if mine else Clouds(held)
    figures = tuple(
        evaluate_store(
            encoder, store, split, reads, sentences="name" if told else sentences, classes=held.classes or None, batch=batch,
            ranks=ranks, progress=progress,
        )
        for split in splits
    )  # fmt: skip
    contract = {name: value for name, value in held.contract.items() if told or name != "classes said by"}
    return reads, tuple(replace(one, contract={**one.contract, **contract}) for one in figures)


def _said(held: Converted) -> Precomputed:
    """The stored rows, as what a teacher answers to the bare names."""
    names = [spoken(name) for name in held.classes]
    if len(set(names)) < len(names):
        raise DataError(what="classes", got="two that read the same", wanted="names that differ", try_="another test set")
    return Precomputed(held.teacher, held.rows.shape[1], dict(zip(names, held.rows, strict=True)))
