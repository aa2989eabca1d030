"""A student that is two matrices, and a batch of which everything is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from mrdist.objectives.mrd import MRD, MRDConfig
from mrdist.shapes import TripletBatch
from mrdist.students.base import Features, Student
from mrdist.testing import tiny_triplets


class PlainStudent(Student):
    """Mean of a point-wise layer, then a linear one; the same weights for every caller."""

    def __init__(self, width: int = 6, seed: int = 0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.width = width
        self.blocks = nn.ModuleList([nn.Linear(6, 8)])
        self.head = nn.Linear(8, width)
        for parameter in self.parameters():
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))

    def forward(self, xyz: Tensor, rgb: Tensor, keys: Tensor | None = None) -> Features:
        weight = self.head.weight
        tokens = self.blocks[0](torch.cat([xyz, rgb], -1).to(weight.dtype)).tanh()
        return Features(self.head(tokens.mean(1)), tokens, xyz)


def objective(dtype: torch.dtype = torch.float64, **options: object) -> MRD:
    """An objective whose learnt weights and scale are not where they start."""
    built = MRDConfig(**options).build(PlainStudent())  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if not name.startswith("student."):
                parameter.add_(torch.linspace(-0.3, 0.4, parameter.numel()))
    return built.to(dtype)


def masked(batch: TripletBatch, image: list[int] | None = None, text: list[int] | None = None) -> TripletBatch:
    """The same batch with other shapes lacking their image or caption; what they held is thrown away."""

    def these(given: list[int] | None, default: Tensor) -> Tensor:
        return default if given is None else torch.tensor(given).bool()

    has_image, has_text = these(image, batch.has_image), these(text, batch.has_text)
    full = tiny_triplets(len(batch), dtype=batch.image.dtype, seed=99)
    held_image = torch.where(batch.has_image[:, None], batch.image, full.image.roll(1, 0)) * has_image[:, None]
    held_text = torch.where(batch.has_text[:, None], batch.text, batch.image.flip(0)) * has_text[:, None]
    return replace(batch, image=held_image, text=held_text, has_image=has_image, has_text=has_text)


def gradients(built: nn.Module, total: Tensor) -> dict[str, Tensor]:
    """Of every parameter that is learnt, by name; zero where the total does not depend on it."""
    named = {name: p for name, p in built.named_parameters() if p.requires_grad}
    held = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named.items(), held, strict=True)}


Choice = dict[str, str]


def choices(keep: Callable[[Choice], bool] = lambda _: True) -> list[Choice]:
    """Every combination of representation, divergence, weighting and cross-relations."""
    from mrdist.objectives.mrd import CROSS, WEIGHTING
    from mrdist.relation.definition import REPRESENTATIONS

    held = [
        {"representation": representation, "divergence": divergence, "weighting": weighting, "cross": cross}
        for representation, divergences in REPRESENTATIONS.items()
        for divergence in divergences
        for weighting in WEIGHTING
        for cross in CROSS
    ]
    return [choice for choice in held if keep(choice)]
