"""Students: shapes, counts, invariance, gradients, chance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from mrdist.errors import DataError, RecipeError
from mrdist.kinds import kind
from mrdist.presets import presets, shipped
from mrdist.recipe import Recipe
from mrdist.students.base import Student, StudentConfig
from mrdist.students.pointbert import PointBERTConfig
from mrdist.students.vit import ViTConfig
from mrdist.torchvision_cpu import ensure_torchvision

# Micro sizes of both families; each switch of the larger sizes is on in one of them.
VIT = ViTConfig(dim=24, depth=3, heads=2, hidden=32, groups=12, group_size=6, channels=(8, 12, 16, 20))
GIANT = replace(VIT, gated=False)
BASE = replace(VIT, inner_norm=True)
BERT = PointBERTConfig(dim=24, depth=3, heads=2, hidden=32, groups=12, group_size=6, radius=0.5, channels=(8, 8, 16))
KINDS = [
    pytest.param(VIT, id="vit"),
    pytest.param(GIANT, id="gelu"),
    pytest.param(BASE, id="inner norm"),
    pytest.param(BERT, id="pointbert"),
]
CHANCE: dict[str, Any] = {"patch_dropout": 0.5, "drop_path": 0.3}


def clouds(count: int = 6, points: int = 100, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    xyz = torch.nn.functional.normalize(torch.randn(count, points, 3, generator=random, dtype=torch.float64), dim=-1)
    keys = torch.randint(-(2**63), 2**63 - 1, (count,), generator=random)
    return xyz, torch.rand(count, points, 3, generator=random, dtype=torch.float64), keys


def built(config: StudentConfig, width: int = 10) -> Student:
    return config.build(width, seed=0).double()


@pytest.mark.parametrize("config", KINDS)
def test_features_have_their_shapes(config: StudentConfig) -> None:
    xyz, rgb, keys = clouds()
    student = built(replace(config, **CHANCE))
    shapes = [(student.train()(xyz, rgb, keys), 6), (student.train()(xyz, rgb), 12), (student.eval()(xyz, rgb, keys), 12)]
    for features, groups in shapes:
        assert features.embedding.shape == (6, student.width) == (6, 10)
        assert features.tokens.shape == (6, groups, 24)
        assert features.centres.shape == (6, groups, 3)


@pytest.mark.parametrize("config", KINDS)
def test_no_row_sees_another(config: StudentConfig) -> None:
    xyz, rgb, keys = clouds()
    student = built(replace(config, **CHANCE)).train()
    whole = student(xyz, rgb, keys).embedding
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert (student(xyz[order], rgb[order], keys[order]).embedding - whole[order]).abs().max() < 1e-12
    parts = [student(xyz[s], rgb[s], keys[s]).embedding for s in (slice(0, 1), slice(1, 6))]
    assert (torch.cat(parts) - whole).abs().max() < 1e-12


@pytest.mark.parametrize("config", KINDS)
def test_keys_decide_in_training_and_only_there(config: StudentConfig) -> None:
    xyz, rgb, keys = clouds()
    for dropping in (replace(config, patch_dropout=0.5), replace(config, drop_path=0.5)):
        student = built(dropping).train()
        drawn = student(xyz, rgb, keys).embedding
        torch.manual_seed(1)
        assert student(xyz, rgb, keys).embedding.equal(drawn)
        assert not (student(xyz, rgb, keys + 1).embedding - drawn).abs().amax(1).le(1e-9).any()
        plain = student(xyz, rgb).embedding
        student.eval()
        assert student(xyz, rgb, keys).embedding.equal(plain)
        assert student(xyz, rgb).embedding.equal(plain)


def test_the_order_of_points_means_nothing_to_the_vit() -> None:
    xyz, rgb, _ = clouds()
    student = built(VIT)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert (student(xyz[:, order], rgb[:, order]).embedding - student(xyz, rgb).embedding).abs().max() < 1e-12


@pytest.mark.parametrize("config", KINDS)
def test_recomputing_changes_no_gradient(config: StudentConfig) -> None:
    xyz, rgb, keys = clouds()
    held = []
    for recompute in (False, True):
        student = built(replace(config, **CHANCE, recompute=recompute)).train()
        student(xyz, rgb, keys).embedding.square().sum().backward()
        held.append([p.grad for p in student.parameters()])
    assert all(a is not None and b is not None and (a - b).abs().max() < 1e-12 for a, b in zip(*held, strict=True))


@pytest.mark.parametrize("config", KINDS)
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_gradient_reaches_every_parameter(config: StudentConfig, norm: str) -> None:
    xyz, rgb, _ = clouds()
    student = built(replace(config, norm=norm)).train()
    student(xyz, rgb).embedding.square().sum().backward()
    still = {name for name, p in student.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-12}
    # BatchNorm takes away the mean, and with it whatever is added to all points before it.
    before_batch_norm = {
        "vit": {"groups.first.0.bias", "groups.first.3.bias", "groups.joint.bias"},
        "pointbert": {f"balls.layers.{k}.0.bias" for k in range(3)},
    }
    assert still == (before_batch_norm[config.kind] if norm == "batch" else set())


def test_the_gradient_is_the_derivative() -> None:
    xyz, rgb, keys = clouds(2, 40)
    student = built(replace(BASE, **CHANCE, depth=1, groups=4, group_size=3)).train()
    names = ["groups.joint.weight", "blocks.0.attn.qkv.q_bias", "blocks.0.mlp.fc1.weight", "place.0.weight"]
    loss = student(xyz, rgb, keys).embedding.square().sum()
    for name, gradient in zip(names, torch.autograd.grad(loss, [student.get_parameter(n) for n in names]), strict=True):
        parameter = student.get_parameter(name)
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        with torch.no_grad():
            parameter.add_(direction, alpha=1e-6)
            above = student(xyz, rgb, keys).embedding.square().sum()
            parameter.add_(direction, alpha=-2e-6)
            below = student(xyz, rgb, keys).embedding.square().sum()
            parameter.add_(direction, alpha=1e-6)
        assert float((above - below) / 2e-6) == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


def test_the_split_layer_is_the_layer_over_the_concatenation() -> None:
    from mrdist.students.blocks import WithWhole

    layer = WithWhole(10, 7).double()
    whole, each = torch.randn(5, 1, 4).double(), torch.randn(5, 3, 6).double()
    wanted = torch.nn.functional.linear(torch.cat([whole.expand(-1, 3, -1), each], -1), layer.weight, layer.bias)
    assert (layer(whole, each) - wanted).abs().max() < 1e-14


@pytest.mark.parametrize(
    ("config", "eva"),
    [
        (VIT, {"swiglu_mlp": True}),
        (BASE, {"swiglu_mlp": True, "scale_mlp": True, "qkv_fused": False}),
        (GIANT, {}),
    ],
    ids=["tiny", "base", "giant"],
)
def test_a_block_is_evas_block(config: ViTConfig, eva: dict[str, Any]) -> None:
    ensure_torchvision()
    from timm.models.eva import EvaBlock

    torch.manual_seed(0)
    norm = lambda size, **place: torch.nn.LayerNorm(size, eps=1e-6, **place)  # noqa: E731
    theirs = EvaBlock(24, 2, mlp_ratio=32.1 / 24, norm_layer=norm, **eva).double()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    state = dict(theirs.state_dict())
    if "attn.q_proj.weight" in state:
        state["attn.qkv.weight"] = torch.cat([state.pop(f"attn.{n}_proj.weight") for n in "qkv"])
        state |= {f"attn.{n}_bias": state.pop(f"attn.{n}_proj.bias") for n in "qv"}
    if "mlp.fc1_g.weight" in state:
        state |= {f"mlp.fc1.{n}": torch.cat([state.pop(f"mlp.fc1_{half}.{n}") for half in "gx"]) for n in ("weight", "bias")}
    state |= {f"attn.qkv.{n}_bias": state.pop(f"attn.{n}_bias") for n in "qv"}
    ours = built(config).blocks[0]
    ours.load_state_dict(state, strict=True)
    x = torch.randn(3, 5, 24).double()
    assert (ours(x) - theirs(x)).abs().max() < 1e-12


def preset(name: str) -> StudentConfig:
    values: Any = OmegaConf.to_container(OmegaConf.load(shipped() / "student" / f"{name}.yaml"))
    merged = OmegaConf.merge(OmegaConf.structured(kind("students", values["kind"])), values)
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "width", "millions"),
    [
        ("tiny", 1024, 6.22), ("small", 1024, 22.50), ("base", 1024, 86.95), ("large", 1024, 304.67), ("giant", 1024, 1012.9),
        ("pointbert-1", 1280, 5.10), ("pointbert-2", 1280, 13.35), ("pointbert-3", 1280, 25.95),
        ("pointbert-4", 1280, 32.33), ("pointbert-5", 1280, 72.07), ("pointbert-6", 1280, 171.26),
    ],
)  # fmt: skip
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_published_sizes_have_their_published_counts(name: str, width: int, millions: float, norm: str) -> None:
    with torch.device("meta"):
        student = replace(preset(name), norm=norm).build(width, seed=0)
    assert all(p.is_meta for p in student.parameters())
    assert sum(p.numel() for p in student.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)
    assert all(p.ndim > 0 for p in student.parameters())


def test_a_model_from_the_meta_device_is_complete_once_its_state_is_loaded() -> None:
    for config in (VIT, BASE, BERT, replace(VIT, norm="batch")):
        student = config.build(10, seed=0).eval()
        with torch.device("meta"):
            empty = config.build(10, seed=1).eval()
        empty.load_state_dict(student.state_dict(), assign=True)
        xyz, rgb, _ = clouds()
        assert empty(xyz.float(), rgb.float()).embedding.equal(student(xyz.float(), rgb.float()).embedding)


@pytest.mark.parametrize("name", presets("student"))
def test_every_preset_can_be_built(name: str) -> None:
    with torch.device("meta"):
        assert preset(name).build(64, seed=0).width == 64


@pytest.mark.parametrize("config", [VIT, BERT])
def test_a_seed_decides_the_weights_and_torch_is_left_alone(config: StudentConfig) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = config.build(10, seed=3)
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(6)
    same, other = config.build(10, seed=3), config.build(10, seed=4)
    assert all(a.equal(b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not first.get_parameter("project.weight").equal(other.get_parameter("project.weight"))


def test_float32_and_bfloat16_compute_in_the_precision_of_their_weights() -> None:
    xyz, rgb, _ = clouds()
    wanted = built(VIT).eval()(xyz, rgb).embedding
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 5e-2)):
        features = VIT.build(10, seed=0).to(dtype).eval()(xyz.float(), rgb.float())
        assert features.embedding.dtype == dtype
        assert (features.embedding.double() - wanted).abs().max() < tolerance * wanted.abs().max()


def test_what_cannot_run_is_refused_before_it_starts() -> None:
    for change, message in (
        ({"heads": 5}, "heads: got 5, wanted a divisor of dim=24"),
        ({"norm": "group"}, "norm: got 'group', wanted layer or batch"),
        ({"drop_path": 1.0}, "drop_path: got 1.0"),
        ({"depth": 0}, "depth: got 0, wanted at least 1"),
    ):
        with pytest.raises(RecipeError, match=message):
            replace(VIT, **change).build(10, seed=0)
    with pytest.raises(RecipeError, match="sample: got 11, wanted at least 12"):
        VIT.check(Recipe(name="x", sample=11))
    VIT.check(Recipe(name="x", sample=12))
    with pytest.raises(DataError, match="got 11 per cloud, wanted at least 12"):
        built(BERT)(*clouds(2, 11)[:2])
