"""A very small objective with everything that makes engines differ, and recipes for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mrdist.kinds import Part
from mrdist.objectives.base import Loss, Objective
from mrdist.ranks import Ranks
from mrdist.recipe import Optim, Recipe, Watch
from mrdist.shapes import TripletBatch
from mrdist.testing import share, tiny_triplets
from mrdist.training.engine import PlainConfig

WIDTH = 6


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.norm(x)).tanh()


class TinyStudent(nn.Module):
    """Linear, blocks, norm, head; a token, a frozen parameter, a counter, and a parameter that nothing uses."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.unused = nn.Parameter(torch.ones(5, 5))
        self.frozen = nn.Parameter(torch.full((3,), 0.5), requires_grad=False)
        self.embed = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(Block(8) for _ in range(2))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, width)
        self.register_buffer("seen", torch.zeros(1))
        random = torch.Generator().manual_seed(seed)
        for parameter in (self.token, *(p for m in (self.embed, self.blocks, self.head) for p in m.parameters())):
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=random) / 3)

    def forward(self, xyz: Tensor, rgb: Tensor, keys: Tensor | None = None) -> Tensor:
        x = self.embed(torch.cat([xyz * self.frozen, rgb], -1)) + self.token
        for block in self.blocks:
            x = block(x)
        if self.training:
            self.seen += 1
        return self.head(self.norm(x.mean(1)))


class TinyObjective(Objective[TripletBatch]):
    """Everyone's rows against everyone's pictures, plus a distance to captions that not every shape has."""

    def __init__(self, student: TinyStudent) -> None:
        super().__init__()
        self.student: TinyStudent = student
        self.sharpness = nn.Parameter(torch.ones(1))

    def forward(self, batch: TripletBatch, ranks: Ranks) -> Loss:
        mine = normalize(self.student(batch.xyz, batch.rgb).to(batch.image.dtype), dim=-1)
        logits = mine @ ranks.gather(batch.image).T * self.sharpness.exp() * 3
        labels = torch.arange(len(mine), device=mine.device) + ranks.rank * len(mine)
        contrast = ranks.mean(nn.functional.cross_entropy(logits, labels, reduction="none"), batch.has_image)
        distance = ranks.mean((mine - batch.text).square().sum(-1), batch.has_text)
        terms = {"contrast": ranks.average(contrast), "distance": ranks.average(distance)}
        return Loss(contrast + distance, terms, {"sharpness": self.sharpness.detach().exp().squeeze()})

    def pictures(self, batch: TripletBatch, ranks: Ranks) -> dict[str, Tensor]:
        mine = normalize(self.student(batch.xyz, batch.rgb), dim=-1)
        everyone = ranks.gather(mine)
        return {"student": everyone @ everyone.T * self.sharpness}


@dataclass(frozen=True)
class TinyStudentConfig(Part):
    kind: str = "tiny"

    def build(self, width: int, *, seed: int) -> TinyStudent:
        return TinyStudent(width, seed)


@dataclass(frozen=True)
class TinyConfig(Part):
    kind: str = "tiny"
    weight: float = 1.0

    def build(self, student: TinyStudent) -> TinyObjective:
        return TinyObjective(student)


@dataclass
class TinyLoader:
    """Batches that depend on the step alone."""

    ranks: Ranks
    rows: int = 8
    dtype: torch.dtype = torch.float32
    served: list[int] = field(default_factory=list)

    def batches(self, after: int) -> Iterator[TripletBatch]:
        step = after
        while True:
            self.served.append(step)
            yield share(tiny_triplets(self.rows, width=WIDTH, seed=step, dtype=self.dtype), self.ranks)
            step += 1


def tiny_recipe(engine: Part | None = None, *, steps: int = 4, clip: float = 0.0, ema: float = 0.0, **watch: Any) -> Recipe:
    optim = Optim(lr=1e-2, warmup=2, weight_decay=0.1, clip=clip, layer_decay=0.9, ema=ema)
    return Recipe(
        name="tiny", steps=steps, batch=8, points=16, sample=16, device="cpu", student=TinyStudentConfig(), objective=TinyConfig(),
        engine=engine or PlainConfig(), optim=optim, watch=Watch(**watch),
    )  # fmt: skip


def make() -> TinyObjective:
    return TinyObjective(TinyStudent(WIDTH, seed=0))
