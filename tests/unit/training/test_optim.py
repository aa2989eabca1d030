"""Who decays, who learns slower, and how fast when."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mrdist.recipe import Optim
from mrdist.training.optim import adamw, decays, groups, rate, set_rate, slowness
from tests.ranks.tiny import make


def test_the_rate_rises_in_a_line_and_falls_on_a_cosine():
    optim = Optim(lr=2.0, final_lr=0.5, warmup=4)
    assert [rate(step, optim, 104) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert rate(4, optim, 104) == 2.0
    assert rate(54, optim, 104) == pytest.approx(1.25)
    assert rate(29, optim, 104) == pytest.approx(0.5 + 1.5 * (1 + math.cos(math.pi / 4)) / 2)
    assert rate(104, optim, 104) == pytest.approx(0.5)
    assert rate(500, optim, 104) == pytest.approx(0.5), "a run that goes on past its end does not rise again"


def test_without_warm_up_the_first_step_is_the_fastest():
    assert rate(0, Optim(lr=1.0, warmup=0), 10) == 1.0


def test_biases_norms_tokens_and_scales_do_not_decay():
    module = make()
    decayed = {name for name, p in module.named_parameters() if decays(name, p)}
    assert decayed == {
        "student.unused", "student.embed.weight", "student.head.weight",
        "student.blocks.0.mix.weight", "student.blocks.1.mix.weight",
    }  # fmt: skip


def test_frozen_parameters_are_in_no_group():
    module = make()
    held = {id(p) for group in groups(module, Optim()) for p in group["params"]}
    assert held == {id(p) for p in module.parameters() if p.requires_grad}


def test_the_deeper_the_block_the_faster_it_learns():
    names = [name for name, _ in make().named_parameters()]
    factors = slowness(names, 0.5)
    assert factors["sharpness"] == 1.0, "what is outside the student keeps its rate, though it is registered first"
    assert factors["student.token"] == factors["student.embed.weight"] == 0.5**3
    assert factors["student.blocks.0.mix.weight"] == 0.5**2
    assert factors["student.blocks.1.norm.bias"] == 0.5
    assert factors["student.norm.weight"] == factors["student.head.bias"] == 1.0


def test_no_blocks_no_decay_of_rates():
    assert set(slowness(["a.weight", "b.weight"], 0.5).values()) == {1.0}


def test_a_rate_reaches_every_group_times_its_factor():
    adam = adamw(make(), Optim(layer_decay=0.5), fused=False)
    set_rate(adam, 8.0)
    assert sorted({group["lr"] for group in adam.param_groups}) == [1.0, 2.0, 4.0, 8.0]


def test_adamw_is_the_textbook_one():
    """Two steps against Loshchilov & Hutter's algorithm 2, in float64."""
    linear = nn.Linear(3, 2, bias=False).double()
    optim = Optim(lr=0.1, weight_decay=0.3, betas=(0.8, 0.9), eps=1e-6)
    adam = adamw(linear, optim, fused=False)
    x, m, v = linear.weight.detach().clone(), torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    for step in (1, 2):
        gradient = torch.arange(6.0, dtype=torch.float64).view(2, 3) - step
        linear.weight.grad = gradient.clone()
        adam.step()
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        x = x - 0.1 * 0.3 * x - 0.1 * (m / (1 - 0.8**step)) / ((v / (1 - 0.9**step)).sqrt() + 1e-6)
    torch.testing.assert_close(linear.weight.detach(), x, rtol=1e-13, atol=1e-13)
