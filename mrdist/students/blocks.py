"""What students are built from: linear layers with a said initialisation, transformer block, embedding of point groups.

Every parameter is initialised inside the constructor of the module that owns it, because ZeRO-3 shards a module as soon as
its constructor returns; and is used only inside that module's `forward`, because ZeRO-3 gathers it there. No module keeps
anything that is not in its state, so that a model made on the meta device is complete once its state is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mrdist.students.scale import STANDARD, Scale


def recomputed(module: nn.Module, *inputs: Tensor | None) -> Tensor:
    """`module(*inputs)` that keeps no activations for backward, but computes them again there."""
    # No generator to replay: chance comes from keys.
    result: Tensor = checkpoint(module, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


class Linear(nn.Linear):
    """A linear layer whose weight begins as a truncated normal of deviation `std` (None: torch's uniform default) and whose bias is 0.

    `growth` is how many times more inputs it has than at the width for which `std` and the learning rate were chosen (`scale`): its
    weight begins `growth ** -0.5` as large (torch's default does so by itself) and learns `1 / growth` as fast (`training.optim`).
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, std: float | None = 0.02, growth: float = 1.0) -> None:
        self.std, self.growth = std, growth
        super().__init__(inputs, outputs, bias)

    def reset_parameters(self) -> None:
        if self.std is None:
            super().reset_parameters()
            return
        nn.init.trunc_normal_(self.weight, std=self.std / self.growth**0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Readout(nn.Linear):
    """The last product, to embeddings whose width never grows: torch's default `growth ** -0.5` as large, learning `1 / growth` as fast."""

    def __init__(self, inputs: int, outputs: int, *, growth: float = 1.0) -> None:
        self.growth = growth
        super().__init__(inputs, outputs)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            self.weight.mul_(self.growth**-0.5)


class QKV(Linear):
    """Queries, keys and values of `dim` channels each from one product; a bias, if any, on queries and values only (EVA)."""

    def __init__(self, dim: int, *, bias: bool, std: float | None, growth: float) -> None:
        super().__init__(dim, 3 * dim, bias=False, std=std, growth=growth)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.q_bias is None or self.v_bias is None:
            return super().forward(x)
        return F.linear(x, self.weight, torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias]))


class Attention(nn.Module):
    """Every token looks at every token of its row: [B, T, D] -> [B, T, D]."""

    def __init__(self, dim: int, heads: int, *, qv_bias: bool, std: float | None, last_std: float | None, scale: Scale) -> None:
        super().__init__()
        self.heads, self.sharpness = heads, scale.attention
        self.qkv = QKV(dim, bias=qv_bias, std=std, growth=scale.growth)
        self.proj = Linear(dim, dim, std=last_std, growth=scale.growth)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        looked: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v, scale=self.sharpness).transpose(1, 2).flatten(2))
        return looked


class MLP(nn.Module):
    """GELU, or SwiGLU where `gated`: the first half of `fc1` opens the second; with a LayerNorm before `fc2` where `inner_norm`."""

    def __init__(
        self, dim: int, hidden: int, *, gated: bool, inner_norm: bool, eps: float, std: float | None, last_std: float | None, growth: float
    ) -> None:
        super().__init__()
        self.gated = gated
        self.fc1 = Linear(dim, 2 * hidden if gated else hidden, std=std, growth=growth)
        self.norm = nn.LayerNorm(hidden, eps) if inner_norm else nn.Identity()
        self.fc2 = Linear(hidden, dim, std=last_std, growth=growth)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            x = F.silu(gate) * x
        else:
            x = F.gelu(x)
        return self.fc2(self.norm(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A transformer block, normalised before attention and before its MLP."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        *,
        gated: bool = False,
        inner_norm: bool = False,
        qv_bias: bool = False,
        eps: float = 1e-5,
        std: float | None = None,
        last_std: float | None = None,
        scale: Scale = STANDARD,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = Attention(dim, heads, qv_bias=qv_bias, std=std, last_std=last_std, scale=scale)
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = MLP(dim, hidden, gated=gated, inner_norm=inner_norm, eps=eps, std=std, last_std=last_std, growth=scale.growth)

    def forward(self, x: Tensor, survival: Tensor | None = None) -> Tensor:
        """[B, T, D] -> [B, T, D].

        Args:
            survival: [B, 2], what each row's two residual branches are multiplied with (`chance.survival`); None is 1.
        """
        if survival is None:
            x = x + self.attn(self.norm1(x))
            x = x + self.mlp(self.norm2(x))
            return x
        first, second = survival.to(x.dtype)[:, :, None, None].unbind(1)
        x = x + first * self.attn(self.norm1(x))
        x = x + second * self.mlp(self.norm2(x))
        return x


def through(blocks: nn.ModuleList, x: Tensor, survival: Tensor | None, *, recompute: bool) -> Tensor:
    """`x [B, T, D]` after all blocks; `survival [B, 2 * depth]` or None."""
    for depth, block in enumerate(blocks):
        mine = None if survival is None else survival[:, 2 * depth : 2 * depth + 2]
        x = recomputed(block, x, mine) if recompute else block(x, mine)
    return x


def point_norm(kind: str, channels: int) -> nn.Module:
    """What normalises rows of channels, [R, C]: each by itself ("layer"), or over all rows of the batch ("batch").

    BatchNorm sees one rank's rows, so that a model trained with it depends on the number of ranks: it is there for released
    weights. `nn.SyncBatchNorm.convert_sync_batchnorm` of the student makes it see all ranks.
    """
    return nn.BatchNorm1d(channels) if kind == "batch" else nn.LayerNorm(channels)


class WithWhole(nn.Linear):
    """A linear layer over (whole, each) without that concatenation: what the whole adds is computed once per group."""

    def forward(self, whole: Tensor, each: Tensor) -> Tensor:  # type: ignore[override]
        """`whole [R, 1, A]`, `each [R, K, C]` -> `[R, K, outputs]`."""
        on_whole, on_each = torch.split(self.weight, [whole.shape[-1], each.shape[-1]], dim=1)
        return F.linear(each, on_each) + F.linear(whole, on_whole, self.bias)


class GroupEmbedding(nn.Module):
    """The mini-PointNet of Point-BERT and Uni3D: one token per group of points, [B, G, K, I] -> [B, G, channels[3]]."""

    def __init__(self, inputs: int, channels: Sequence[int], norm: str) -> None:
        super().__init__()
        first, point, second, token = channels
        self.first = nn.Sequential(nn.Linear(inputs, first), point_norm(norm, first), nn.ReLU(inplace=True), nn.Linear(first, point))
        self.joint = WithWhole(2 * point, second)
        self.second = nn.Sequential(point_norm(norm, second), nn.ReLU(inplace=True), nn.Linear(second, token))

    def forward(self, groups: Tensor) -> Tensor:
        batch, count, size, _ = groups.shape
        each = self.first(groups.flatten(0, 2)).view(batch * count, size, -1)
        joint = self.joint(largest(each)[:, None], each)
        return largest(self.second(joint.flatten(0, 1)).view(batch, count, size, -1))


class BallEmbedding(nn.Module):
    """The shared MLP of PointNet++ and OpenShape: one token per ball of points, [B, G, K, I] -> [B, G, channels[-1]]."""

    def __init__(self, inputs: int, channels: Sequence[int], norm: str) -> None:
        super().__init__()
        steps = zip((inputs, *channels), channels, strict=False)
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), point_norm(norm, b), nn.ReLU(inplace=True)) for a, b in steps))

    def forward(self, balls: Tensor) -> Tensor:
        return largest(self.layers(balls.flatten(0, 2)).view(*balls.shape[:3], -1))


def largest(points: Tensor) -> Tensor:
    """[..., K, C] -> [..., C], over the points. Not `amax`: it shares a gradient among ties, at twice the price."""
    return torch.max(points, dim=-2).values
