"""One process or four: the same loss, the same terms, the same gradient, however captions are spread."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from mrdist.kinds import Part
from mrdist.objectives.mrd import MRD
from mrdist.ranks import Ranks
from mrdist.shapes import TripletBatch
from mrdist.testing import on_ranks, share, tiny_triplets
from mrdist.training.engine import PlainConfig
from mrdist.training.zero import ZeroConfig
from tests.ranks.tiny import TinyLoader, tiny_recipe
from tests.unit.objectives.plain import Choice, choices, gradients, masked, objective

BATCHES: dict[str, tuple[list[int] | None, list[int] | None]] = {
    "uneven": (None, None),  # 1 of 8 without image; captions 2, 1, 1, 0 on four ranks
    "one rank has nothing": ([1, 1, 0, 0, 1, 1, 1, 1], [1, 1, 0, 0, 1, 0, 1, 1]),
    "no caption anywhere": (None, [0] * 8),
}
MORE: list[dict[str, Any]] = [
    {"intra": "none", "cross": "none"},
    {"intra": "image"},
    {"intra": "text", "cross": "none"},
    {"diagonal": True},
    {"align_limit": 5.0, "limit": 0.1},  # at their bounds
]


def batch(kind: str) -> TripletBatch:
    return masked(tiny_triplets(8, dtype=torch.float64), *BATCHES[kind])


def measured(ranks: Ranks, options: list[dict[str, Any]], kinds: list[str], local: bool = False) -> list[list[float]]:
    """For every batch and option: the global loss, then terms and figures, then the gradient as a data-parallel engine averages it.

    Args:
        local: do as most repositories do: each rank compares its own rows only.
    """
    rows: list[list[float]] = []
    for kind in kinds:
        mine = share(batch(kind), ranks)
        for option in options:
            built = objective(**option)
            loss = built(mine, Ranks.alone() if local else ranks)
            held = [loss.total.detach(), *loss.terms.values(), *loss.figures.values(), *gradients(built, loss.total).values()]
            shared = len(loss.terms) + len(loss.figures)
            flat = torch.cat([value.reshape(-1) for value in held])
            whole = ranks.average(flat)
            # Terms and figures come out global on every rank: averaging them must change nothing.
            assert local or torch.allclose(whole[1 : 1 + shared], flat[1 : 1 + shared], rtol=1e-13, atol=0)
            rows.append(whole.tolist())
    return rows


def furthest(got: list[list[float]], wanted: list[list[float]]) -> float:
    """The largest difference, relative to the size of what it is a part of (loss and terms, or gradient)."""
    off = 0.0
    for one, other in zip(got, wanted, strict=True):
        a, b = torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
        assert torch.isfinite(b).all()
        off = max(off, float((a - b).abs().max() / b.abs().max().clamp(min=1)))
    return off


@pytest.mark.parametrize("size", [2, 4])
def test_every_option_gives_the_same_loss_terms_and_gradient_on_any_number_of_ranks(size: int) -> None:
    # All 144 combinations on two ranks; on four, the quarter in which every two of the four choices still meet.
    every = choices()
    options: list[dict[str, Any]] = [*(every if size == 2 else [c for i, c in enumerate(every) if (i + i // 4 + i // 16) % 4 == 0]), *MORE]
    wanted = measured(Ranks.alone(), options, ["uneven"])
    for rows in on_ranks(size, measured, options, ["uneven"]):
        assert furthest(rows, wanted) < 1e-12


@pytest.mark.parametrize("size", [2, 4])
def test_a_missing_caption_changes_nothing_wherever_it_is_missing(size: int) -> None:
    options: list[dict[str, Any]] = [*some(), *MORE]
    kinds = ["one rank has nothing", "no caption anywhere"]
    wanted = measured(Ranks.alone(), options, kinds)
    for rows in on_ranks(size, measured, options, kinds):
        assert furthest(rows, wanted) < 1e-12


def test_a_local_mean_is_another_loss_on_another_number_of_ranks() -> None:
    """The tests above can fail: they do, for each option, when every rank compares its own rows only."""
    wanted = measured(Ranks.alone(), some(), ["uneven"])
    for rows in on_ranks(2, measured, some(), ["uneven"], True):
        assert min(furthest([one], [other]) for one, other in zip(rows, wanted, strict=True)) > 1e-3


def some() -> list[Choice]:
    """One divergence of each representation, all weights."""
    return choices(lambda c: c["divergence"] in ("jeffrey", "l1") and c["cross"] == "both")


def bounded() -> MRD:
    return objective(torch.float32, limit=0.29, align_limit=10.0, warmup=2)  # weights and scale begin outside


def stepped(ranks: Ranks, engines: list[Part]) -> list[dict[str, Tensor]]:
    """The weights after four steps, by engine."""
    held = []
    for part in engines:
        recipe = tiny_recipe(part)
        engine = recipe.engine.build(bounded, recipe, ranks, torch.device("cpu"))  # type: ignore[attr-defined]
        for batch in TinyLoader(ranks).batches(after=0):
            if engine.done == recipe.steps:
                break
            engine.step(engine.forward(batch))
        held.append({name: tensor.clone() for name, tensor in engine.state() if name.startswith("weights/")})
        engine.close()
    return held


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed")
def test_every_engine_takes_the_same_steps_and_keeps_the_same_bounds() -> None:
    (wanted,) = stepped(Ranks.alone(), [PlainConfig()])
    engines: list[Part] = [PlainConfig(), *(ZeroConfig(stage=stage, persistence=20) for stage in range(4))]
    for held in on_ranks(2, stepped, engines):
        for engine, weights in zip(engines, held, strict=True):
            assert weights.keys() == wanted.keys()
            assert all(torch.allclose(weights[name], wanted[name], rtol=1e-6, atol=1e-7) for name in wanted), engine


def pictured(ranks: Ranks) -> dict[str, Tensor]:
    return {name: held.clone() for name, held in objective().pictures(share(batch("uneven"), ranks), ranks).items()}


def test_pictures_are_the_same_on_every_rank() -> None:
    wanted = pictured(Ranks.alone())
    for held in on_ranks(2, pictured):
        assert held.keys() == wanted.keys()
        assert all(torch.allclose(held[name], wanted[name], atol=1e-12) for name in wanted)
