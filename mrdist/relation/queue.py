"""A queue: rows of the last batches as further columns of relations within a modality.

Embeddings drift slowly, so that a student's old rows are still worth being compared with (XBM: Wang et al. 2020, arXiv 1912.06798). They
get no gradient and are no rows themselves. A shape that comes again while it is still in the queue is a column of its own, as it is there:
keep a queue well below the shapes of an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mrdist.errors import RecipeError
from mrdist.ranks import Ranks
from mrdist.relation.tile import Side


class Queue(NamedTuple):
    """The newest Q rows, newest first, the same on every rank; its tensors may be buffers of a module, and `push` writes into them."""

    points: Tensor  # [Q, d] unit rows, or zeros where nothing lies yet
    image: Tensor  # likewise
    text: Tensor
    has_image: Tensor  # [Q] bool, False where nothing lies yet
    has_text: Tensor

    @classmethod
    def empty(cls, rows: int, width: int) -> Self:
        """A place for `rows` rows of `width` numbers, float32 on the CPU."""
        points, image, text = torch.zeros(3, rows, width)
        has_image, has_text = torch.zeros(2, rows, dtype=torch.bool)
        return cls(*(held.clone() for held in (points, image, text, has_image, has_text)))

    @torch.no_grad()
    def push(self, points: Tensor, image: Tensor, text: Tensor, has_image: Tensor, has_text: Tensor, ranks: Ranks) -> None:
        """Let everyone's newest rows in and the oldest go; after backward, which still reads what lies here. Every rank calls.

        Args:
            points: [b, d], my rows, any length; image and text likewise, the same shapes'.
            has_image: [b] bool; has_text likewise.
        """
        for held, rows in zip(self, (points, image, text, has_image, has_text), strict=True):
            fresh = ranks.gather(normalize(rows.to(held.dtype), dim=-1) if held.is_floating_point() else rows)
            held.copy_(torch.cat([fresh, held])[: len(held)])

    def columns(self, modalities: Sequence[str], width: int, dtype: torch.dtype) -> Side:
        """As columns of these modalities, in the dtype of their products.

        Raises:
            RecipeError: its rows are not `width` long.
        """
        if self.points.shape[-1] != width:
            got = f"a queue of {self.points.shape[-1]} numbers per row"
            raise RecipeError(what="queue", got=got, wanted=f"{width}, as the points'", try_=f"Queue.empty({len(self.points)}, {width})")
        held = self._asdict()
        flags = torch.stack([held.get(f"has_{name}", torch.ones_like(self.has_image)) for name in modalities])
        return Side(tuple(held[name].to(dtype) for name in modalities), flags, {})
