"""The Point-BERT student in OpenShape's shapes (Liu et al., NeurIPS 2023): balls of points, a shared MLP, a plain transformer.

Farthest points are the centres of balls; the members of a ball are the first points inside its radius, in the order of the
cloud, not the nearest. A shared MLP on (offset, place, colour) is pooled to one token per ball, to which the centre is
appended: the only position there is. Pre-norm blocks follow; the class token is projected into the teacher's space.

OpenShape's released state maps onto this module by names alone (prefix `module.` dropped; 1x1 convolutions lose their last axes):

    ppat.sa.mlp_convs.K          balls.layers.K.0    ppat.transformer.layers.K.0.norm         blocks.K.norm1
    ppat.sa.mlp_bns.K            balls.layers.K.1    ppat.transformer.layers.K.0.fn.to_qkv    blocks.K.attn.qkv
    ppat.lift.0                  lift                ppat.transformer.layers.K.0.fn.to_out.0  blocks.K.attn.proj
    ppat.lift.2                  lift_norm           ppat.transformer.layers.K.1.norm         blocks.K.norm2
    ppat.cls_token               cls_token           ppat.transformer.layers.K.1.fn.net.0     blocks.K.mlp.fc1
    proj                         project             ppat.transformer.layers.K.1.fn.net.3     blocks.K.mlp.fc2
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrdist.students import chance, grouping
from mrdist.students.base import Features, Student, StudentConfig
from mrdist.students.blocks import BallEmbedding, Block, Readout, recomputed, through


@dataclass(frozen=True)
class PointBERTConfig(StudentConfig):
    """A Point-BERT student; the defaults are the paper's scaling 4, `configs/student/` has the others."""

    kind: str = "pointbert"
    dim: int = 512
    heads: int = 8
    hidden: int = 1536
    groups: int = 384
    radius: float = 0.2
    channels: tuple[int, int, int] = (64, 64, 256)  # of the shared MLP's three layers

    def student(self, width: int) -> Student:
        return PointBERT(self, width)


class PointBERT(Student):
    """See the module's docstring."""

    def __init__(self, config: PointBERTConfig, width: int) -> None:
        super().__init__()
        self.config, self.width = config, width
        self.balls = BallEmbedding(9, config.channels, config.norm)
        self.lift = nn.Linear(config.channels[-1] + 3, config.dim)
        self.lift_norm = nn.LayerNorm(config.dim)
        self.cls_token = nn.Parameter(torch.randn(config.dim))
        self.blocks = nn.ModuleList(Block(config.dim, config.heads, config.hidden, scale=config.scale) for _ in range(config.depth))
        self.project = Readout(config.dim, width, growth=config.scale.growth)

    def forward(self, xyz: Tensor, rgb: Tensor, keys: Tensor | None = None) -> Features:
        """See `Student.forward`. Balls that a row drops are dropped before they are embedded: they cost nothing."""
        config = self.config
        keys = keys if self.training else None
        centres = grouping.take(xyz, chance.kept(grouping.farthest(xyz, config.groups), keys, config.patch_dropout))
        members = grouping.within(xyz, centres, config.radius, config.group_size)
        places = grouping.take(xyz, members)
        # Parameters say in which precision to compute: clouds come in float32.
        precision = self.project.weight.dtype
        points = torch.cat([places - centres[:, :, None], places, grouping.take(rgb, members)], dim=-1).to(precision)
        pooled = recomputed(self.balls, points) if config.recompute else self.balls(points)
        tokens = self.lift_norm(self.lift(torch.cat([centres.to(precision), pooled], dim=-1)))
        start = self.cls_token.expand(len(tokens), 1, -1)
        survival = chance.survival(keys, config.drop_path, config.depth)
        x = through(self.blocks, torch.cat([start, tokens], dim=1), survival, recompute=config.recompute)
        return Features(self.project(x[:, 0]), x[:, 1:], centres)
