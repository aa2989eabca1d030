"""Randomness that belongs to a row: a number is a function of (key, salt, position) and of nothing else.

Whatever a row drops in training is drawn here, never from torch's generators: those depend on the rank and on what was
drawn before, so that the same recipe would train another model on another number of ranks, and a forward pass that is
replayed (recomputed activations, two-pass engines) would see other numbers than the first one.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """A 64-bit pattern as the int64 that has it."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


# SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): its step and its two multipliers.
_STEP = 0x9E3779B97F4A7C15
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


# Salts of students; others may take any from 16 on.
_GROUPS, _BRANCHES = 0, 1


def _shifted(bits: Tensor, by: int) -> Tensor:
    # int64 shifts drag the sign along; a hash needs zeros.
    return torch.bitwise_and(bits >> by, 2 ** (64 - by) - 1)


def _mixed(bits: Tensor) -> Tensor:
    """Every bit of the result depends on every bit of `bits` (int64; products wrap)."""
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return torch.bitwise_xor(bits, _shifted(bits, 31))


def uniform(keys: Tensor, salt: int, count: int) -> Tensor:
    """`count` independent numbers per row, `[B, count]` float32 in [0, 1), on the device of `keys`.

    Args:
        keys: [B] int64, one per row.
        salt: what the numbers are for: two uses of one key take two salts.
    """
    rows = _mixed(_mixed(keys) + _signed((salt + 1) * _STEP))
    steps = torch.arange(1, count + 1, device=keys.device) * _signed(_STEP)
    # 24 bits are what float32 holds exactly, and never round up to 1.
    return _shifted(_mixed(rows[:, None] + steps), 40).to(torch.float32) * 2.0**-24


def survival(keys: Tensor | None, rate: float, depth: int) -> Tensor | None:
    """What each row's residual branches are multiplied with: 0 by chance, else as much more as keeps the mean (stochastic depth).

    Args:
        rate: the chance of 0 in the last of `depth` blocks; it rises linearly from none in the first.

    Returns:
        [B, 2 * depth], block after block; None where nothing is dropped.
    """
    if keys is None or rate == 0:
        return None
    rates = torch.linspace(0, rate, depth, device=keys.device).repeat_interleave(2)
    return (uniform(keys, _BRANCHES, 2 * depth) >= rates) / (1 - rates)


def kept(things: Tensor, keys: Tensor | None, rate: float) -> Tensor:
    """`things [B, G]` less a share `rate` of each row, in the same order, every choice equally likely; at least one is kept."""
    if keys is None or rate == 0:
        return things
    of = things.shape[1]
    chosen = uniform(keys, _GROUPS, of).topk(max(1, round(of * (1 - rate))), dim=-1, sorted=False)
    return things.gather(1, chosen.indices.sort(dim=-1).values)
