"""What Uni3D and OpenShape released, made up: files with their names and shapes, and the published architectures, written out plainly."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mrdist.students import grouping
from mrdist.torchvision_cpu import ensure_torchvision

State = dict[str, Tensor]
EVA = {
    "tiny": ("eva02_tiny_patch14_224", 0),
    "small": ("eva02_small_patch14_224", 0),
    "base": ("eva02_base_patch14_448", 1000),
    "large": ("eva02_large_patch14_448", 1000),
    "giant": ("eva_giant_patch14_560", 1000),
}


def eva(size: str) -> torch.nn.Module:
    """The real image transformer of timm that Uni3D takes its blocks from."""
    ensure_torchvision()
    import timm

    name, classes = EVA[size]
    made: torch.nn.Module = timm.create_model(name, num_classes=classes)
    return made.eval()


QUIET = ("cls_", "encoder2trans", "pos_embed.2", ".attn.proj.", ".fc2.", "ppat.lift.2", ".to_out.", ".net.3.")
"""What adds to the stream that blocks read and write: so little of it that the smallest number in a norm is seen."""


def numbers(shapes: dict[str, tuple[int, ...]]) -> State:
    """Numbers that keep signals about as large as they are; every one matters."""
    random = torch.Generator().manual_seed(0)
    state: State = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=random)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1000)
        elif name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            state[name] = 1 + 0.3 * drawn.tanh()
        else:
            state[name] = drawn / max(1, drawn[0].numel()) ** 0.5 if len(shape) > 1 and "cls" not in name else 0.3 * drawn
        if any(part in name for part in QUIET):
            state[name] = 0.03 * state[name]
    return state


def layer(name: str, *shape: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, **({f"{name}.bias": shape[:1]} if bias else {})}


def batch_norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {**{f"{name}.{part}": (size,) for part in ("weight", "bias", "running_mean", "running_var")}, f"{name}.num_batches_tracked": ()}


def uni3d_shapes(size: str, dim: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes as a file of Uni3D has them."""
    with torch.device("meta"):
        visual = eva(size).state_dict()
    own = {
        "cls_token": (1, 1, dim), "cls_pos": (1, 1, dim),
        **layer("encoder.first_conv.0", 128, 6, 1), **batch_norm("encoder.first_conv.1", 128),
        **layer("encoder.first_conv.3", 256, 128, 1),
        **layer("encoder.second_conv.0", 512, 512, 1), **batch_norm("encoder.second_conv.1", 512),
        **layer("encoder.second_conv.3", 512, 512, 1),
        **layer("encoder2trans", dim, 512), **layer("trans2embed", 1024, dim),
        **layer("pos_embed.0", 128, 3), **layer("pos_embed.2", dim, 128),
    }  # fmt: skip
    shapes = {**own, **{f"visual.{name}": tuple(value.shape) for name, value in visual.items()}}
    return {"logit_scale": (), **{f"point_encoder.{name}": shape for name, shape in shapes.items()}}


def openshape_shapes(dim: int, depth: int, hidden: int, pooled: int, width: int = 1280) -> dict[str, tuple[int, ...]]:
    """Names and shapes as a file of OpenShape's Point-BERT has them."""
    shapes: dict[str, tuple[int, ...]] = {"ppat.cls_token": (dim,)}
    for k, (a, b) in enumerate(((9, 64), (64, 64), (64, pooled))):
        shapes |= {**layer(f"ppat.sa.mlp_convs.{k}", b, a, 1, 1), **batch_norm(f"ppat.sa.mlp_bns.{k}", b)}
    shapes |= {**layer("ppat.lift.0", dim, pooled + 3, 1), **layer("ppat.lift.2", dim)}
    for k in range(depth):
        block = f"ppat.transformer.layers.{k}"
        shapes |= {**layer(f"{block}.0.norm", dim), **layer(f"{block}.0.fn.to_qkv", 3 * dim, dim, bias=False)}
        shapes |= {**layer(f"{block}.0.fn.to_out.0", dim, dim), **layer(f"{block}.1.norm", dim)}
        shapes |= {**layer(f"{block}.1.fn.net.0", hidden, dim), **layer(f"{block}.1.fn.net.3", dim, hidden)}
    return {f"module.{name}": shape for name, shape in {**shapes, **layer("proj", width, dim)}.items()}


def cloud(points: int, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A thick bent bowl, none of its own mirror images, with points about its middle, y up; and its colours."""
    random = np.random.default_rng(seed)
    xyz = random.normal(size=(points, 3)) * (3, 1, 2) + random.normal(size=(points, 1)) ** 2 * (0.3, 0.7, 0.2)
    return xyz.astype(np.float32), random.uniform(size=(points, 3)).astype(np.float32)


def farthest(xyz: NDArray[np.float32], count: int, start: int, *, hollow: bool) -> list[int]:
    """Point by point; with `hollow` as pointnet2_ops does it, which passes over points near the origin."""
    gap, picks = np.full(len(xyz), np.inf, dtype=np.float32), [start]
    passed = (xyz**2).sum(1) <= 1e-3 if hollow else np.zeros(len(xyz), dtype=bool)
    while len(picks) < count:
        square = (xyz - xyz[picks[-1]]) ** 2
        gap = np.minimum(gap, square[:, 0] + square[:, 1] + square[:, 2])
        picks.append(int(np.where(passed, -1, gap).argmax()))
    return picks


def normed(state: State, name: str, x: Tensor) -> Tensor:
    """BatchNorm in evaluation, channels second."""
    mean, var, weight, bias = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5)


def uni3d(state: State, visual: Any, xyz: Tensor, rgb: Tensor, groups: int = 512, size: int = 64) -> Tensor:
    """The published architecture on one cloud [N, 3], step by step; blocks and last norm are timm's."""
    state = {name.removeprefix("point_encoder."): value for name, value in state.items()}
    visual.load_state_dict({name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")})
    centres = xyz[farthest(xyz.numpy(), groups, 0, hollow=True)]
    members = torch.cdist(centres.double(), xyz.double()).topk(size, largest=False).indices
    x = torch.cat([xyz[members] - centres[:, None], rgb[members]], dim=-1).transpose(1, 2)  # [G, 6, K]

    def conv(name: str, x: Tensor) -> Tensor:
        return F.conv1d(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    each = conv("encoder.first_conv.3", normed(state, "encoder.first_conv.1", conv("encoder.first_conv.0", x)).relu())
    whole = each.amax(-1, keepdim=True).expand_as(each)
    each = conv("encoder.second_conv.0", torch.cat([whole, each], dim=1))
    tokens = conv("encoder.second_conv.3", normed(state, "encoder.second_conv.1", each).relu()).amax(-1)
    tokens = linear("encoder2trans", tokens) + linear("pos_embed.2", F.gelu(linear("pos_embed.0", centres)))
    x = torch.cat([(state["cls_token"] + state["cls_pos"])[0], tokens])[None]
    for block in visual.blocks:
        x = block(x)
    return linear("trans2embed", visual.fc_norm(visual.norm(x[:, 0])))[0]


def openshape(state: State, config: Any, xyz: Tensor, rgb: Tensor) -> Tensor:
    """The published architecture on one cloud [N, 3], step by step. Its sampling starts anywhere: where ours does."""
    state = {name.removeprefix("module."): value for name, value in state.items()}
    first = int(grouping.farthest(xyz[None], 1)[0, 0])
    centres = xyz[farthest(xyz.numpy(), config.groups, first, hollow=False)]
    inside = torch.cdist(centres.double(), xyz.double()) <= config.radius
    members = torch.stack([row.nonzero()[:, 0].repeat(config.group_size)[: config.group_size] for row in inside])
    for row, ball in zip(members, inside, strict=True):
        row[int(ball.sum()) :] = row[0]
    x = torch.cat([xyz[members] - centres[:, None], xyz[members], rgb[members]], dim=-1).permute(2, 1, 0)[None]  # [1, 9, K, G]
    for k in range(3):
        name = f"ppat.sa.mlp_convs.{k}"
        x = normed(state, f"ppat.sa.mlp_bns.{k}", F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])).relu()

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"].flatten(1), state.get(f"{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    tokens = norm("ppat.lift.2", linear("ppat.lift.0", torch.cat([centres, x.amax(2)[0].T], dim=-1)))
    x = torch.cat([state["ppat.cls_token"][None], tokens])
    for k in range(config.depth):
        block = f"ppat.transformer.layers.{k}"
        q, k_, v = linear(f"{block}.0.fn.to_qkv", norm(f"{block}.0.norm", x)).view(len(x), 3, -1, 64).permute(1, 2, 0, 3)
        seen = (q @ k_.transpose(1, 2) / 8).softmax(-1) @ v
        x = x + linear(f"{block}.0.fn.to_out.0", seen.transpose(0, 1).flatten(1))
        x = x + linear(f"{block}.1.fn.net.3", F.gelu(linear(f"{block}.1.fn.net.0", norm(f"{block}.1.norm", x))))
    return linear("proj", x[0])


def as_published(xyz: NDArray[np.float32]) -> NDArray[np.float64]:
    """Both families' normalisation."""
    centred = xyz.astype(np.float64) - xyz.astype(np.float64).mean(0)
    return np.asarray(centred / np.linalg.norm(centred, axis=1).max())


def halved(state: State) -> State:
    """As half-precision training leaves a model: counters stay whole."""
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
