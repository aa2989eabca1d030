"""Loss curves that must not move. One that has to: `python -m tests.golden.test_curves` writes them anew; say why in the commit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mrdist.ranks import Ranks
from mrdist.training.engine import PlainConfig
from tests.ranks.real import RealLoader, make_real, real_recipe

FILE = Path(__file__).with_name("mrd.json")


def curve() -> list[dict[str, float]]:
    """Eight steps of the real objective and student, in float64."""
    recipe = real_recipe(PlainConfig(precision="fp64"), steps=8)
    engine = recipe.engine.build(make_real, recipe, Ranks.alone(), torch.device("cpu"))
    out = []
    for batch in RealLoader(Ranks.alone(), torch.float64).batches(after=0):
        if engine.done == recipe.steps:
            return out
        loss = engine.forward(batch)
        engine.step(loss)
        terms = {name: float(value) for name, value in loss.terms.items()}
        out.append({"loss": float(loss.total.detach()), "gradient_norm": engine.gradient_norm, **terms})
    return out


def test_the_loss_curve_has_not_moved() -> None:
    wanted = json.loads(FILE.read_text())
    got = curve()
    assert len(got) == len(wanted)
    for step, (now, before) in enumerate(zip(got, wanted, strict=True), 1):
        # Across processors sums are taken in another order; what a change of method does is far larger.
        assert now == pytest.approx(before, rel=1e-6), f"step {step}"


if __name__ == "__main__":
    FILE.write_text(json.dumps(curve(), indent=1) + "\n")
