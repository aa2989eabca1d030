"""The real objective around a small real student, with everything random switched on, as a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mrdist.kinds import Part
from mrdist.objectives.base import Objective
from mrdist.objectives.mrd import MRDConfig
from mrdist.ranks import Ranks
from mrdist.recipe import Optim, Recipe, Watch
from mrdist.shapes import TripletBatch
from mrdist.students.vit import ViTConfig
from mrdist.testing import share, tiny_triplets

WIDTH = 6
STUDENT = ViTConfig(
    dim=24, depth=3, heads=2, hidden=32, groups=12, group_size=6, channels=(8, 12, 16, 20), patch_dropout=0.5, drop_path=0.3
)


def real_recipe(engine: Part, *, steps: int = 4) -> Recipe:
    watch = Watch(log_every=0, pictures_every=1, save_every=0, silence=0.0)
    optim = Optim(lr=2e-3, warmup=2, clip=1.0, layer_decay=0.9, ema=0.9)
    return Recipe(
        name="real", steps=steps, batch=16, points=60, sample=60, device="cpu", student=STUDENT, objective=MRDConfig(warmup=2),
        engine=engine, optim=optim, watch=watch,
    )  # fmt: skip


def make_real() -> Objective[TripletBatch]:
    return MRDConfig(warmup=2).build(STUDENT.build(WIDTH, seed=0))


@dataclass
class RealLoader:
    """Batches of 16 clouds of 60 points that depend on the step alone."""

    ranks: Ranks
    dtype: torch.dtype = torch.float32

    def batches(self, after: int) -> Iterator[TripletBatch]:
        step = after
        while True:
            yield share(tiny_triplets(16, width=WIDTH, points=60, seed=step, dtype=self.dtype), self.ranks)
            step += 1
