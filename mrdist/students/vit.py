"""The Uni3D-shaped student: groups of points are the patches of an EVA vision transformer (Zhou et al., ICLR 2024).

Farthest points are the centres of groups, their nearest neighbours the members; a mini-PointNet makes a token of each group
from (offset from the centre, colour); a small MLP places it; pre-norm blocks without rotary embedding follow; the class token,
normalised, is projected into the teacher's space.

Uni3D's released state maps onto this module by names alone (prefix `point_encoder.` dropped; 1x1 convolutions lose their last axis):

    encoder.first_conv.{0,3}           groups.first.{0,3}              encoder.first_conv.1    groups.first.1
    encoder.second_conv.0              groups.joint                    encoder.second_conv.1   groups.second.0
    encoder.second_conv.3              groups.second.2                 encoder2trans           lift
    cls_token, cls_pos                 cls_token, cls_pos              pos_embed.{0,2}         place.{0,2}
    visual.blocks.K.attn.{q,v}_bias    blocks.K.attn.qkv.{q,v}_bias    trans2embed             project
    visual.blocks.K.attn.qkv           blocks.K.attn.qkv               visual.fc_norm          norm
    visual.blocks.K.attn.{q,k,v}_proj  blocks.K.attn.qkv (stacked; the biases of q and v as above)
    visual.blocks.K.mlp.fc1_{g,x}      blocks.K.mlp.fc1 (stacked)      other visual.blocks.K   blocks.K

`visual.{pos_embed,cls_token,patch_embed,head,rope}` are in the released files and used by nobody. Their up axis is y.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrdist.errors import RecipeError
from mrdist.students import chance, grouping
from mrdist.students.base import Features, Student, StudentConfig
from mrdist.students.blocks import Block, GroupEmbedding, Readout, recomputed, through

STARTS = ("corner", "first")

_EPS = 1e-6  # of EVA's LayerNorms


@dataclass(frozen=True)
class ViTConfig(StudentConfig):
    """A Uni3D-shaped student; the defaults are Uni3D-tiny, `configs/student/` has the other sizes."""

    kind: str = "vit"
    gated: bool = True  # SwiGLU (EVA-02: tiny to large) instead of GELU (EVA: giant)
    inner_norm: bool = False  # a LayerNorm inside the MLP (EVA-02: base and large)
    channels: tuple[int, int, int, int] = (128, 256, 512, 512)  # of the mini-PointNet's four layers
    start: str = "corner"  # of farthest points: corner (stays with a cloud that moves or is reordered) | first (Uni3D's, of the cloud)

    def student(self, width: int) -> Student:
        return ViT(self, width)

    def fits(self) -> None:
        super().fits()
        if self.start not in STARTS:
            raise RecipeError(what="student.start", got=repr(self.start), wanted=" or ".join(STARTS), try_="student.start=corner")

    def points(self) -> int:
        return max(self.groups, self.group_size)


class ViT(Student):
    """See the module's docstring."""

    def __init__(self, config: ViTConfig, width: int) -> None:
        super().__init__()
        self.config, self.width = config, width
        dim = config.dim
        self.groups = GroupEmbedding(6, config.channels, config.norm)
        self.lift = nn.Linear(config.channels[-1], dim)
        self.place = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.cls_pos = nn.Parameter(torch.randn(1, 1, dim))
        self.blocks = nn.ModuleList(
            Block(
                dim, config.heads, config.hidden, gated=config.gated, inner_norm=config.inner_norm, qv_bias=True, eps=_EPS,
                # The deeper, the less a block adds at first (BEiT, EVA).
                std=0.02, last_std=0.02 / (2 * (k + 1)) ** 0.5, scale=config.scale,
            )
            for k in range(config.depth)
        )  # fmt: skip
        self.norm = nn.LayerNorm(dim, _EPS)
        self.project = Readout(dim, width, growth=config.scale.growth)

    def forward(self, xyz: Tensor, rgb: Tensor, keys: Tensor | None = None) -> Features:
        """See `Student.forward`. Groups that a row drops are dropped before they are embedded: they cost nothing."""
        config = self.config
        keys = keys if self.training else None
        picked = grouping.farthest(xyz, config.groups) if config.start == "corner" else _from_the_first(xyz, config.groups)
        centres = grouping.take(xyz, chance.kept(picked, keys, config.patch_dropout))
        members = grouping.nearest(xyz, centres, config.group_size)
        offsets = grouping.take(xyz, members) - centres[:, :, None]
        # Parameters say in which precision to compute: clouds come in float32.
        precision = self.project.weight.dtype
        points = torch.cat([offsets, grouping.take(rgb, members)], dim=-1).to(precision)
        tokens = self.lift(recomputed(self.groups, points) if config.recompute else self.groups(points))
        tokens = tokens + self.place(centres.to(precision))
        start = (self.cls_token + self.cls_pos).expand(len(tokens), -1, -1)
        survival = chance.survival(keys, config.drop_path, config.depth)
        x = through(self.blocks, torch.cat([start, tokens], dim=1), survival, recompute=config.recompute)
        return Features(self.project(self.norm(x[:, 0])), x[:, 1:], centres)


def _from_the_first(xyz: Tensor, count: int) -> Tensor:
    """Farthest points as pointnet2_ops picks them, and Uni3D with it: from the first, and none within 0.0316 of the origin."""
    first = xyz[:, :1]
    inner = xyz.square().sum(-1, keepdim=True) <= 1e-3
    # Where the first is, nothing is farthest.
    return grouping.farthest(torch.where(inner, first, xyz), count, start=0)
