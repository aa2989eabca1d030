"""The random states of this process: set, taken, put back."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def seed_all(*numbers: int) -> None:
    """Start Python's, numpy's and torch's generators from `numbers` (run, step, rank)."""
    mixed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


def taken() -> dict[str, Tensor]:
    """The states as tensors, so that a checkpoint needs no pickle."""
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)["state"]
    out = {
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*numpy["key"].tolist(), numpy["pos"]], dtype=torch.int64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        out["cuda"] = torch.cuda.get_rng_state()
    return out


def put_back(states: Mapping[str, Tensor]) -> None:
    """Continue from what `taken` gave."""
    version, *words = states["python"].tolist()
    gauss = states["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    *key, position = states["numpy"].tolist()
    state = {"key": np.array(key, dtype=np.uint32), "pos": position}
    np.random.set_state({"bit_generator": "MT19937", "state": state, "has_gauss": 0, "gauss": 0.0})
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
