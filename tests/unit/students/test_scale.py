"""muP: at the base width nothing changes, at others what one step does stays as large; and the same measure sees it grow without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from mrdist.errors import RecipeError
from mrdist.recipe import Optim
from mrdist.students.base import Student, StudentConfig
from mrdist.students.pointbert import PointBERTConfig
from mrdist.students.scale import Scale
from mrdist.students.vit import ViTConfig
from mrdist.training.optim import adamw, groups, set_rate

WIDTHS = (64, 128, 256, 512)
BASE = 64
VIT = ViTConfig(dim=BASE, depth=2, heads=4, hidden=2 * BASE, groups=8, group_size=8, channels=(16, 16, 32, 32))
BERT = PointBERTConfig(dim=BASE, depth=2, heads=4, hidden=2 * BASE, groups=8, group_size=8, radius=0.5, channels=(16, 16, 32))
KINDS = [pytest.param(VIT, id="vit"), pytest.param(BERT, id="pointbert")]
E, CLOUDS, STEPS, RATE = 24, 16, 4, 3e-3
FLAT = 0.25
"""Largest power of the width that counts as none: what the first weights add falls with the width and bends the line a little."""


def wide(config: StudentConfig, dim: int, parametrisation: str = "mup") -> StudentConfig:
    """As many heads, each wider: attention has to scale, too."""
    based = {"base_dim": BASE, "base_heads": config.heads} if parametrisation == "mup" else {}
    return replace(config, dim=dim, hidden=2 * dim, parametrisation=parametrisation, **based)  # type: ignore[arg-type]


def seen(student: Student, xyz: Tensor, rgb: Tensor) -> dict[str, Tensor]:
    """What attention adds, what blocks give, and the embedding."""
    out: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, result: out.update({name: result})

    attentions = [(f"attention {k}", block.attn) for k, block in enumerate(student.blocks)]
    hooks = [m.register_forward_hook(keep(name)) for name, m in [*attentions, *((f"block {k}", b) for k, b in enumerate(student.blocks))]]  # type: ignore[arg-type]
    with torch.no_grad():
        out["embedding"] = student(xyz, rgb).embedding
    for hook in hooks:
        hook.remove()
    return out


def moved(config: StudentConfig, seed: int) -> dict[str, float]:
    """How far a few steps of AdamW move a coordinate, on the mean."""
    random = torch.Generator().manual_seed(seed)
    xyz = normalize(torch.randn(CLOUDS, 32, 3, generator=random), dim=-1)
    rgb = torch.rand(CLOUDS, 32, 3, generator=random)
    teacher = normalize(torch.randn(CLOUDS, E, generator=random), dim=-1)
    student = config.build(E, seed=seed)
    before = seen(student, xyz, rgb)
    adam = adamw(student, Optim(weight_decay=0.0), fused=False)
    set_rate(adam, RATE)
    for _ in range(STEPS):
        adam.zero_grad()
        logits = normalize(student(xyz, rgb).embedding, dim=-1) @ teacher.T / 0.1
        torch.autograd.backward(cross_entropy(logits, torch.arange(CLOUDS)))
        adam.step()
    return {name: float((after - before[name]).abs().mean()) for name, after in seen(student, xyz, rgb).items()}


def slopes(config: StudentConfig, parametrisation: str) -> dict[str, float]:
    """With which power of the width that grows, by place."""
    rows = [[moved(wide(config, dim, parametrisation), seed) for seed in range(2)] for dim in WIDTHS]
    sizes = {name: [np.mean([held[name] for held in row]) for row in rows] for name in rows[0][0]}
    return {name: float(np.polyfit(np.log(WIDTHS), np.log(size), 1)[0]) for name, size in sizes.items()}


@pytest.mark.parametrize("config", KINDS)
def test_coordinates_move_as_far_at_any_width_and_farther_and_farther_in_the_standard_parametrisation(config: StudentConfig) -> None:
    assert max(map(abs, slopes(config, "mup").values())) < FLAT
    assert min(slopes(config, "standard").values()) > 2 * FLAT


@contextmanager
def without(owner: Any, name: str, other: Any) -> Iterator[None]:
    kept = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@pytest.mark.parametrize("missing", ["rates", "rate of the last", "first weights of the last"])
def test_the_measure_sees_each_rule_that_is_missing(missing: str) -> None:
    from mrdist.students import blocks
    from mrdist.training import optim

    found = optim.growths
    broken = {
        "rates": (optim, "growths", lambda module: {}),
        "rate of the last": (optim, "growths", lambda module: {n: g for n, g in found(module).items() if "project" not in n}),
        "first weights of the last": (blocks.Readout, "reset_parameters", nn.Linear.reset_parameters),
    }
    with without(*broken[missing]):
        assert max(slopes(BERT, "mup").values()) > FLAT


@pytest.mark.parametrize("config", KINDS)
def test_at_the_base_width_both_parametrisations_are_one_student(config: StudentConfig) -> None:
    standard, mup = config.build(E, seed=0), wide(config, BASE).build(E, seed=0)
    xyz, rgb = torch.rand(3, 40, 3), torch.rand(3, 40, 3)
    assert standard(xyz, rgb).embedding.equal(mup(xyz, rgb).embedding)
    rates = [{(group["slowness"], group["weight_decay"]) for group in groups(s, Optim(weight_decay=0.1))} for s in (standard, mup)]
    assert rates[0] == rates[1] == {(1.0, 0.1), (1.0, 0.0)}


@pytest.mark.parametrize("config", KINDS)
def test_four_times_the_width_begins_and_learns_as_the_table_says(config: StudentConfig) -> None:
    student, base = wide(config, 4 * BASE).build(E, seed=0), config.build(E, seed=0)
    parts = {id(p): group for group in groups(student, Optim(weight_decay=0.1)) for p in group["params"]}
    rules = {name: (parts[id(p)]["slowness"], parts[id(p)]["weight_decay"]) for name, p in student.named_parameters()}
    first = {name: float(p.std() / dict(base.named_parameters())[name].std()) for name, p in student.named_parameters() if p.ndim > 1}
    grown = [f"blocks.{k}.{name}.weight" for k in range(2) for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    for name in grown:
        assert rules[name] == (0.25, pytest.approx(0.4))
        assert first[name] == pytest.approx(0.5, rel=0.05)
    assert rules["project.weight"] == (0.25, pytest.approx(0.4))
    assert first["project.weight"] == pytest.approx(0.25, rel=0.1)
    assert rules["lift.weight"] == (1.0, pytest.approx(0.1))
    assert first["lift.weight"] == pytest.approx(1.0, rel=0.05)
    left = [name for name in rules if name not in (*grown, "project.weight")]
    assert {rules[name] for name in left} == {(1.0, 0.1), (1.0, 0.0)}


def test_logits_are_divided_by_what_a_head_has_grown_to() -> None:
    assert Scale.mup(256, 4, 64, 4) == Scale(4.0, 16**0.5 / 64)
    assert Scale.mup(256, 16, 64, 4) == Scale.mup(256, 16, 64, 0) == Scale(4.0, None), "as many channels per head: nothing to change"
    wider = wide(VIT, 4 * BASE).build(E, seed=0).double()
    attention: Any = wider.blocks[0]
    x = torch.randn(2, 5, 4 * BASE, dtype=torch.float64)
    q, k, v = attention.attn.qkv(x).view(2, 5, 3, 4, 64).permute(2, 0, 3, 1, 4)
    looked = ((q @ k.transpose(-1, -2)) * 4 / 64).softmax(-1) @ v
    assert (attention.attn(x) - attention.attn.proj(looked.transpose(1, 2).flatten(2))).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parametrisation": "sp"}, "standard or mup"),
        ({"parametrisation": "mup"}, "student.base_dim=64"),
        ({"parametrisation": "mup", "base_dim": 64, "base_heads": 5}, "a divisor of base_dim=64"),
        ({"parametrisation": "mup", "base_dim": 64, "weights": "released.pt"}, "student.parametrisation=standard"),
    ],
)
def test_what_cannot_be_scaled_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        replace(VIT, **changes).build(E, seed=0)
