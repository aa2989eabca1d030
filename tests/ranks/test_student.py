"""What a row becomes does not depend on how many ranks there are, nor which of them has it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mrdist.ranks import Ranks
from mrdist.students.base import StudentConfig
from mrdist.students.pointbert import PointBERTConfig
from mrdist.students.vit import ViTConfig
from mrdist.testing import on_ranks, share, tiny_triplets

CHANCE = {"patch_dropout": 0.5, "drop_path": 0.3}
VIT = ViTConfig(dim=24, depth=3, heads=2, hidden=32, groups=12, group_size=6, channels=(8, 12, 16, 20), **CHANCE)  # type: ignore[arg-type]
BERT = PointBERTConfig(dim=24, depth=3, heads=2, hidden=32, groups=12, group_size=6, channels=(8, 8, 16), **CHANCE)  # type: ignore[arg-type]


def learnt(ranks: Ranks, config: StudentConfig) -> list[Tensor]:
    """Everyone's features, and the gradient of their mean square, averaged over ranks."""
    batch = share(tiny_triplets(8, points=60, dtype=torch.float64), ranks)
    student = config.build(6, seed=0).double().train()
    features = student(batch.xyz, batch.rgb, batch.keys)
    loss = ranks.mean(features.embedding.square().sum(-1), torch.ones(len(batch), dtype=torch.bool))
    torch.autograd.backward(loss)
    gradients = [ranks.average(p.grad) for p in student.parameters() if p.grad is not None]
    return [ranks.gather(value.detach()) for value in features] + gradients


def learnt_by_both(ranks: Ranks) -> list[Tensor]:
    torch.manual_seed(ranks.rank)  # as ranks' generators do, these differ
    return learnt(ranks, VIT) + learnt(ranks, BERT)


@pytest.mark.parametrize("size", [2, 4])
def test_features_and_gradients_are_the_same_on_any_number_of_ranks(size: int) -> None:
    alone = learnt_by_both(Ranks.alone())
    for held in on_ranks(size, learnt_by_both):
        assert len(held) == len(alone)
        assert max(float((mine - whole).abs().max()) for mine, whole in zip(held, alone, strict=True)) < 1e-12
