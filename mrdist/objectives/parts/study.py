"""What an objective takes along from a data set before it begins: the teacher's embeddings of every shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from mrdist.ranks import Ranks
from mrdist.relation.bank import Bank
from mrdist.shapes import digest


class Store(Protocol):
    """Where the teacher's embeddings lie: a `TripletStore`, or anything like it."""

    width: int

    def indices(self, split: str) -> NDArray[np.int64]:
        """The rows of a split."""

    def id(self, row: int) -> str:
        """The shape in a row."""

    def taught(self, row: int) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """Its image [V, E] and text [T, E] embeddings."""


def bank_of(store: Store, split: str, ranks: Ranks, device: torch.device) -> Bank:
    """A bank of a split, float32, one column per shape and modality: the mean of its views' embeddings, and of its captions'.

    One view per shape would make every column a matter of chance, and all of them would make shapes with many views count more. Each rank
    reads and holds an equal part. Every rank calls.

    Raises:
        DataError: the split has no shapes, or cannot be read.
    """
    mine = np.array_split(store.indices(split), ranks.size)[ranks.rank].tolist()
    held, here = torch.zeros(2, len(mine), store.width), torch.zeros(2, len(mine), dtype=torch.bool)
    for k, row in enumerate(mine):
        for of, embeddings in enumerate(store.taught(row)):
            if len(embeddings):
                unit = normalize(torch.from_numpy(embeddings.astype(np.float32)), dim=-1)
                held[of, k], here[of, k] = unit.mean(0), True
    (image, text), (has_image, has_text) = held.to(device), here.to(device)
    return Bank.of(image, text, has_image, has_text, keys_of([store.id(row) for row in mine], device), ranks)


def keys_of(ids: Sequence[str], device: torch.device) -> Tensor:
    """[n] int64: a number per shape, from its id alone."""
    return torch.tensor([int(digest(name.encode())[:15], 16) for name in ids], dtype=torch.int64, device=device)
