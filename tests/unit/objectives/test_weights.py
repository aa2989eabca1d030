"""Learnt weights rest where they should, stay within their bounds, and come back from them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mrdist.objectives.parts.bounds import bounded
from mrdist.objectives.parts.scale import Scale
from mrdist.objectives.parts.weights import Fixed, Share, Softmax, Uncertainty, Weights
from mrdist.ranks import Ranks

ALONE = Ranks.alone()
HERE = torch.ones(3).bool()


def descended(weights: Weights, terms: Tensor, steps: int = 2000, lr: float = 0.02) -> Tensor:
    """The weights after gradient descent on terms that do not change."""
    optimiser = torch.optim.Adam(weights.parameters(), lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        weights(terms, HERE, ALONE).total.backward()
        optimiser.step()
    return weights(terms, HERE, ALONE).weights


def test_uncertainty_rests_where_each_weight_is_one_over_its_term() -> None:
    terms = torch.tensor([0.5, 2.0, 4.0])
    assert torch.allclose(descended(Uncertainty(3), terms), 1 / terms, rtol=1e-3)


def test_uncertainty_stays_within_its_limit_and_comes_back() -> None:
    weights = Uncertainty(3, limit=1.0)
    held = descended(weights, torch.tensor([1e-6, 1e6, 1.0]))
    assert torch.allclose(held, torch.tensor([math.e, 1 / math.e, 1.0]), rtol=1e-3)
    assert weights.log_variance.detach().abs().max() < 1.3  # held at the bound, not running away behind it
    assert torch.allclose(descended(weights, torch.ones(3), steps=300), torch.ones(3), rtol=0.02)


def test_softmax_alone_collapses_on_the_smallest_term_and_a_floor_holds_it() -> None:
    terms = torch.tensor([0.5, 1.0, 1.5])
    assert descended(Softmax(3, floor=0.0, entropy=0.0), terms)[0] > 2.9
    held = descended(Softmax(3, floor=0.1, entropy=0.0), terms) / 3
    assert held.min() >= 0.1
    assert float(held.sum()) == pytest.approx(1.0)


def test_an_entropy_bonus_keeps_softmax_weights_soft() -> None:
    terms = torch.tensor([0.9, 1.0, 1.1])
    assert descended(Softmax(3, floor=0.0, entropy=3.0), terms).min() > 0.5


@pytest.mark.parametrize("weights", [Fixed((2.0, 3.0, 4.0)), Uncertainty(3), Softmax(3)])
def test_an_absent_term_counts_for_nothing(weights: Weights) -> None:
    terms, here = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([True, False, True])
    held = weights(terms, here, ALONE)
    assert held.weights[1] == 0
    if list(weights.parameters()):
        held.total.backward()
        (parameter,) = weights.parameters()
        assert parameter.grad is not None
        assert parameter.grad[1] == 0
        assert torch.isfinite(parameter.grad).all()


def test_no_term_at_all_costs_nothing_and_breaks_nothing() -> None:
    for weights in (Fixed((1.0, 1.0, 1.0)), Uncertainty(3), Softmax(3)):
        assert float(weights(torch.zeros(3), ~HERE, ALONE).total) == 0


def test_given_weights_multiply() -> None:
    held = Fixed((2.0, 3.0, 4.0))(torch.tensor([1.0, 10.0, 100.0]), HERE, ALONE)
    assert float(held.total) == 432
    assert float(held.price) == 0


@pytest.mark.parametrize(("value", "upstream", "passes"), [(2.0, -1.0, False), (2.0, 1.0, True), (-2.0, 1.0, False), (-2.0, -1.0, True)])
def test_at_a_bound_only_the_way_back_is_open(value: float, upstream: float, passes: bool) -> None:
    number = torch.tensor([value], requires_grad=True)
    held = bounded(number, -1.0, 1.0, ALONE)
    (upstream * held).backward()
    assert float(held) == math.copysign(1.0, value)
    assert number.grad is not None
    assert float(number.grad) == (upstream if passes else 0.0)


def test_within_its_bounds_a_number_is_itself() -> None:
    number = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: bounded(x, -1.0, 1.0, ALONE), (number,))


def test_a_scale_starts_at_its_temperature_and_never_passes_its_limit() -> None:
    scale = Scale(0.07, 100.0)
    assert float(scale(torch.zeros(1), ALONE)) == pytest.approx(1 / 0.07)
    optimiser = torch.optim.SGD(scale.parameters(), lr=0.01)
    for _ in range(50):
        optimiser.zero_grad()
        (-scale(torch.zeros(1), ALONE)).sum().backward()
        optimiser.step()
    assert float(scale(torch.zeros(1), ALONE)) == pytest.approx(100.0)
    scale(torch.zeros(1), ALONE).sum().backward()
    optimiser.step()
    assert float(scale(torch.zeros(1), ALONE)) < 100.0


def test_a_share_stays_between_its_ends() -> None:
    share = Share(0.1)
    assert float(share(torch.zeros(1), ALONE)) == 0.5
    for sign in (1.0, -1.0):
        with torch.no_grad():
            share.preference.fill_(sign * 50)
        assert float(share(torch.zeros(1), ALONE)) == pytest.approx(0.5 + sign * 0.4)
