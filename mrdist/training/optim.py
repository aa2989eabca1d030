"""AdamW: which parameters decay, which learn slower, and how fast at which step."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from mrdist.recipe import Optim

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


def rate(step: int, optim: Optim, steps: int) -> float:
    """The learning rate of the step after `step` finished ones: linear warm-up, then a cosine down to `final_lr`.

    A function of the step alone: a resumed run, on any number of ranks, has no schedule to restore.
    """
    if step < optim.warmup:
        return optim.lr * (step + 1) / optim.warmup
    done = min(1.0, (step - optim.warmup) / max(1, steps - optim.warmup))
    return optim.final_lr + (optim.lr - optim.final_lr) * (1 + math.cos(math.pi * done)) / 2


def shape_of(parameter: Tensor) -> tuple[int, ...]:
    """The full shape of a parameter; one that ZeRO-3 shares out is empty and remembers it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices, not to biases, scales, tokens and other vectors (`[1, 1, D]` is one)."""
    return sum(length > 1 for length in shape_of(parameter)) > 1 and not name.endswith("bias")


def slowness(names: list[str], layer_decay: float) -> dict[str, float]:
    """The factor on the learning rate of each parameter, from its name alone (BEiT, Bao et al. 2022, appendix).

    Parameters of `<student>.blocks.<k>.` get `layer_decay ** (depth - k)`; what the student registers before its
    blocks (embeddings, tokens) gets `layer_decay ** (depth + 1)`; what comes after them, and everything outside
    the student (heads, temperatures), gets 1.
    """
    found = {name: _BLOCK.search(name) for name in names}
    numbered = {name: int(match.group(1)) for name, match in found.items() if match}
    if not numbered or layer_decay == 1.0:
        return dict.fromkeys(names, 1.0)
    depth = 1 + max(numbered.values())
    first = next(name for name in names if name in numbered)
    owner = first[: first.index("blocks.")]
    out: dict[str, float] = {}
    for place, name in enumerate(names):
        before = name.startswith(owner) and place < names.index(first)
        exponent = depth - numbered[name] if name in numbered else depth + 1 if before else 0
        out[name] = layer_decay**exponent
    return out


def growths(module: nn.Module) -> dict[str, float]:
    """How many times more inputs than at the base width a weight has, by name; weights that do not say are not in it (`students.scale`)."""
    said = ((name, getattr(part, "growth", 1.0)) for name, part in module.named_modules())
    return {f"{name}.weight": growth for name, growth in said if growth != 1.0}


def groups(module: nn.Module, optim: Optim) -> list[dict[str, Any]]:
    """Parameter groups for AdamW, in a fixed order; each carries `slowness`, the factor on its learning rate.

    A weight that has grown learns that much slower and decays that much more: rate x decay stays (`students.scale`).
    """
    learnt = {name: p for name, p in module.named_parameters() if p.requires_grad}
    factors, grown = slowness(list(learnt), optim.layer_decay), growths(module)
    out: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in learnt.items():
        growth = grown.get(name, 1.0)
        factor, decay = factors[name] / growth, optim.weight_decay * growth if decays(name, parameter) else 0.0
        group = out.setdefault((factor, decay), {"params": [], "weight_decay": decay, "slowness": factor})
        group["params"].append(parameter)
    return list(out.values())


def adamw(module: nn.Module, optim: Optim, *, fused: bool) -> torch.optim.AdamW:
    """The optimiser of every engine: decoupled weight decay (Loshchilov & Hutter 2019), one kernel where `fused`."""
    return torch.optim.AdamW(
        groups(module, optim), lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay,
        amsgrad=False, maximize=False, foreach=False, capturable=False, differentiable=False, fused=fused,
    )  # fmt: skip


def set_rate(adam: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every group to `value` times its factor."""
    for group in adam.param_groups:
        group["lr"] = value * group["slowness"]
