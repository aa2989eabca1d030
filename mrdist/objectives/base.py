"""What every method is made of: an Objective, and the Loss it returns."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from mrdist.ranks import Ranks

Batch = TypeVar("Batch")


class Loss(NamedTuple):
    """What one step costs. A NamedTuple, because ZeRO-3 looks into what `forward` returns.

    `total` is this rank's share (its mean over ranks is the global loss) and is differentiated; `terms` and
    `figures` are detached 0-dim tensors, already global: the same on every rank.
    """

    total: Tensor
    terms: dict[str, Tensor]
    figures: dict[str, Tensor]

    @classmethod
    def of(cls, total: Tensor, terms: dict[str, Tensor], figures: dict[str, Tensor], ranks: Ranks) -> Loss:
        """From this rank's shares, all 0-dim: terms and figures are made global, in one collective; what is global already stays."""
        named = {**terms, **figures}
        whole = dict(zip(named, ranks.average(torch.stack([value.detach() for value in named.values()])), strict=True))
        return cls(total, {name: whole[name] for name in terms}, {name: whole[name] for name in figures})


class Objective(nn.Module, Generic[Batch]):
    """Student, heads and loss in one module: the unit that is sharded, trained and saved.

    It receives `ranks` and calls no other collective. Parameters of one number have shape [1]: DeepSpeed and FSDP
    refuse 0-dim ones.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the teacher must supply: a subset of {"image", "text", "caption tokens"}."""

    student: nn.Module

    def study(self, store: Any, ranks: Ranks, device: torch.device) -> None:
        """Take along from the store that the run trains on what no batch tells. Called once on every rank, before the first step.

        What is kept is no part of a checkpoint: a resumed run studies again.
        """

    def embed(self, batch: Batch) -> Tensor:
        """What the student makes of my rows, [b, E]; no row sees another, so any part of the batch may be embedded alone.

        Chance belongs to a row (`mrdist.students.chance`) or is torch's own, which can be put back; not a generator kept elsewhere.
        """
        raise NotImplementedError

    def compare(self, embedding: Tensor, batch: Batch, ranks: Ranks) -> Loss:
        """The loss of my rows, compared with everyone's.

        Args:
            embedding: [b, E], what `embed` made of `batch`.
        """
        raise NotImplementedError

    def forward(self, batch: Batch, ranks: Ranks) -> Loss:
        """The loss of my rows of a global batch. Where rows cannot be embedded apart, this alone is overridden, and chunks are refused."""
        return self.compare(self.embed(batch), batch, ranks)

    def after_step(self, ranks: Ranks, step: int) -> None:
        """What is not a gradient: a teacher that follows, a codebook, a schedule. Called on every rank."""

    def at_step(self, step: int, steps: int) -> None:
        """Told before each step how far the run is: for weights and temperatures with a schedule."""

    def pictures(self, batch: Batch, ranks: Ranks) -> dict[str, Tensor]:
        """Square matrices worth looking at, `name -> [N, N]`; called on every rank without gradient, now and then."""
        return {}

    def exported(self) -> nn.Module:
        """The student that is evaluated and saved for others."""
        return self.student
