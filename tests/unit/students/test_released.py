"""Released weights: read strictly, and the same features as the architectures they were released for."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from mrdist.contract import MEAN
from mrdist.encoder import Encoder, from_pretrained
from mrdist.errors import CheckpointError, RecipeError, TeacherError
from mrdist.kinds import Part
from mrdist.shapes import AXES, Points
from mrdist.students.base import StudentConfig, blank
from mrdist.students.released import preset, read, recognised
from mrdist.students.vit import ViTConfig, _from_the_first
from tests.unit.students.originals import (
    State,
    as_published,
    cloud,
    eva,
    farthest,
    halved,
    numbers,
    openshape,
    openshape_shapes,
    uni3d,
    uni3d_shapes,
)  # fmt: skip


@pytest.mark.parametrize(("size", "dim", "half"), [("tiny", 192, True), ("base", 768, False)])
@torch.no_grad()
def test_uni3d_has_the_features_of_the_original(tmp_path: Path, size: str, dim: int, half: bool) -> None:
    state = numbers(uni3d_shapes(size, dim))
    state = halved(state) if half else state
    torch.save({"module": state, "ds_version": "0.10.3"}, tmp_path / "model.pt")
    encoder = from_pretrained(tmp_path / "model.pt")
    xyz, rgb = cloud(10_000)
    points = Points.of(xyz, rgb, up="y")
    seen = encoder.contract.seen(points.xyz)
    assert np.abs(seen - as_published(xyz)).max() < 1e-6
    wanted = uni3d({n: v.float() for n, v in state.items()}, eva(size), torch.from_numpy(seen), torch.from_numpy(rgb))
    found: list[Tensor] = []
    encoder.student.register_forward_hook(lambda student, given, features: found.append(features.embedding[0]))
    assert (encoder.encode(points)[0] - F.normalize(wanted, dim=0)).abs().max() < 1e-5
    assert (found[0] - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_uni3ds_centres_are_those_of_pointnet2_ops() -> None:
    clouds = np.stack([cloud(400, seed=seed)[0] / (60 + 10 * seed) for seed in range(4)])
    clouds[3, 0] = 0.001  # the first is one that would be passed over
    picks = _from_the_first(torch.from_numpy(clouds), 60)
    assert picks.tolist() == [farthest(xyz, 60, 0, hollow=True) for xyz in clouds]
    assert all(row != farthest(xyz, 60, 0, hollow=False) for row, xyz in zip(picks.tolist(), clouds, strict=True))


@pytest.mark.parametrize(("scaling", "shape"), [(1, (256, 6, 1024, 96)), (4, (512, 12, 1536, 256))])
@torch.no_grad()
def test_openshape_has_the_features_of_the_original(tmp_path: Path, scaling: int, shape: tuple[int, int, int, int]) -> None:
    state = numbers(openshape_shapes(*shape))
    torch.save({"state_dict": state, "logit_scale": torch.tensor(14.28), "epoch": 3, "best_lvis_acc": 0.4}, tmp_path / "model.pt")
    encoder = from_pretrained(tmp_path / "model.pt")
    assert encoder.contract.student == replace(preset(f"pointbert-{scaling}"), norm="batch")
    xyz, rgb = cloud(10_000)
    points = Points.of(xyz, rgb, up="y")
    seen = encoder.contract.seen(points.xyz)
    # Its loader swaps y and z, which mirrors.
    assert np.abs(seen - as_published(xyz[:, [0, 2, 1]])).max() < 1e-6
    wanted = openshape(state, encoder.contract.student, torch.from_numpy(seen), torch.from_numpy(rgb))
    found: list[Tensor] = []
    encoder.student.register_forward_hook(lambda student, given, features: found.append(features.embedding[0]))
    assert (encoder.encode(points)[0] - F.normalize(wanted, dim=0)).abs().max() < 1e-5
    assert (found[0] - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(
    ("size", "dim", "used", "kept"),
    [
        ("tiny", 192, 6.22, 6.39), ("small", 384, 22.50, 22.83), ("base", 768, 86.95, 88.96),
        ("large", 1024, 304.67, 307.35), ("giant", 1408, 1012.9, 1017.4),
    ],
)  # fmt: skip
def test_every_size_of_uni3d_is_recognised_by_names_and_shapes(size: str, dim: int, used: float, kept: float) -> None:
    shapes = uni3d_shapes(size, dim)
    state = {name: torch.empty(shape, device="meta", dtype=torch.float16) for name, shape in shapes.items()}
    state |= {name: value.long() for name, value in state.items() if name.endswith("num_batches_tracked")}
    found = recognised(state, "model.pt")
    assert found.size == size
    assert found.config == replace(cast(ViTConfig, preset(size)), norm="batch", start="first")
    counted = [name for name in state if "running" not in name and "tracked" not in name]
    assert sum(state[name].numel() for name in counted) / 1e6 == pytest.approx(kept, rel=1e-3)
    ours = {name: found.tensor(name) for name in found.parts if "running" not in name and "tracked" not in name}
    assert sum(value.numel() for value in ours.values()) / 1e6 == pytest.approx(used, rel=1e-3)
    assert all(value.dtype == torch.float32 for value in ours.values())


@pytest.mark.parametrize(
    ("scaling", "shape"),
    [
        (1, (256, 6, 1024, 96)), (2, (512, 6, 1024, 128)), (3, (512, 12, 1024, 128)),
        (4, (512, 12, 1536, 256)), (5, (768, 12, 2304, 256)), (6, (768, 24, 3072, 256)),
    ],
)  # fmt: skip
def test_every_scaling_of_openshape_is_recognised(scaling: int, shape: tuple[int, int, int, int]) -> None:
    state = {name: torch.empty(size, device="meta") for name, size in openshape_shapes(*shape).items()}
    state |= {name: value.long() for name, value in state.items() if name.endswith("num_batches_tracked")}
    assert recognised(state, "model.pt").size == f"pointbert-{scaling}"


@pytest.fixture(scope="module")
def tiny() -> State:
    return numbers(uni3d_shapes("tiny", 192))


def test_the_same_tensors_are_read_from_every_wrapping(tmp_path: Path, tiny: State) -> None:
    bare = {name.removeprefix("point_encoder."): value for name, value in tiny.items()}
    torch.save({"module": tiny}, tmp_path / "a.pt")
    torch.save({"state_dict": {f"module.{name}": value for name, value in tiny.items()}, "epoch": 1}, tmp_path / "b.pt")
    torch.save(bare, tmp_path / "c.bin", _use_new_zipfile_serialization=False)
    save_file(tiny, tmp_path / "d.safetensors")
    first = read(tmp_path / "a.pt")
    for name in ("b.pt", "c.bin", "d.safetensors"):
        again = read(tmp_path / name)
        assert again.parts.keys() == first.parts.keys()
        assert all(again.tensor(key).equal(first.tensor(key)) for key in first.parts)


def change(name: str, value: Tensor | None) -> Callable[[State], State]:
    return lambda state: {**{n: v for n, v in state.items() if n != name}, **({} if value is None else {name: value})}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (change("point_encoder.cls_pos", None), "got no cls_pos,"),
        (change("point_encoder.visual.blocks.7.attn.v_bias", None), r"got no visual\.blocks\.7\.attn\.v_bias,"),
        (change("point_encoder.encoder.second_conv.1.running_var", None), r"no encoder\.second_conv\.1\.running_var,"),
        (change("point_encoder.trans2embed.weight", None), r"no trans2embed\.weight"),
        (change("point_encoder.visual.blocks.7.attn.k_bias", torch.zeros(192)), r"an unknown visual\.blocks\.7\.attn\.k_bias,"),
        (change("point_encoder.visual.norm.weight", torch.ones(192)), r"an unknown visual\.norm\.weight,"),
        (change("point_encoder.pos_embed.0.weight", torch.ones(128, 4)), r"pos_embed\.0\.weight of shape \[128, 4\], not \[128, 3\]"),
        (change("point_encoder.encoder.first_conv.0.weight", torch.ones(128, 6, 3)), r"first_conv\.0\.weight of shape \[128, 6, 3\]"),
        (change("point_encoder.cls_pos", torch.ones(1, 1, 192, dtype=torch.int64)), r"cls_pos of type torch\.int64"),
        (change("point_encoder.visual.blocks.12.norm1.weight", torch.ones(192)), "depth 13, .* wanted .*tiny 192/12/512"),
        (change("point_encoder.trans2embed.weight", torch.ones(512, 192)), "width 512, wanted .*; width 1024"),
        (change("point_encoder.trans2embed.weight", torch.ones(512)), r"trans2embed\.weight .*no matrix"),
        (lambda state: {}, r"no trans2embed\.weight"),
        (lambda state: {**state, "module.logit_scale": torch.ones(())}, "two tensors of one name"),
    ],
)  # fmt: skip
def test_a_tensor_too_many_or_too_few_is_one_error_that_names_it(tiny: State, wrong: Callable[[State], State], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        recognised(wrong(tiny), "model.pt")


def test_an_error_lists_the_first_few(tiny: State) -> None:
    with pytest.raises(CheckpointError, match=r"no cls_pos, no visual\S+, no visual\S+, and 11 more, wanted the tensors of Uni3D \(tiny\)"):
        recognised({n: v for n, v in tiny.items() if "blocks.3" not in n and "cls_pos" not in n}, "model.pt")


class Trap:
    """What a hostile file would have python call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_pickle_is_executed(tmp_path: Path, tiny: State) -> None:
    torch.save({"module": {**tiny, "point_encoder.x": Trap(tmp_path / "sprung")}}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match="without running code"):
            from_pretrained(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_what_is_no_released_file_is_one_error(tmp_path: Path, tiny: State) -> None:
    torch.save(tiny, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:-1000])
    (tmp_path / "empty.pt").touch()
    (tmp_path / "empty.safetensors").touch()
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"module": {"point_encoder.cls_pos": 3}}, tmp_path / "number.pt")
    for name in ("cut.pt", "empty.pt", "empty.safetensors", "list.pt", "number.pt", "nowhere.pt"):
        with pytest.raises(CheckpointError):
            read(tmp_path / name)


class Words:
    """A teacher whose texts are known."""

    fingerprint, supplies = "whoever", frozenset({"text"})

    def __init__(self, width: int) -> None:
        self.width = width

    def texts(self, captions: Sequence[str]) -> NDArray[np.float32]:
        return np.eye(self.width, dtype=np.float32)[[len(caption) for caption in captions]]

    def images(self, encoded: Sequence[bytes]) -> NDArray[np.float32]:
        raise AssertionError


def test_an_encoder_of_released_weights_is_kept_and_compares_with_a_teacher_of_its_width(tmp_path: Path, tiny: State) -> None:
    save_file(tiny, tmp_path / "model.safetensors")
    held = from_pretrained(tmp_path / "model.safetensors")
    again = Encoder.load(held.save(tmp_path / "kept"))
    assert again.contract == held.contract
    assert (again.contract.axis, again.contract.scale, again.contract.points) == ("y", MEAN, 10_000)
    points = Points.of(*cloud(500), up="y")
    rows = held.encode(points)
    assert again.encode(points).equal(rows)
    card = (tmp_path / "kept" / "README.md").read_text()
    for fact in ("y up", "mean centred", "not recorded", "EVA02-E-14-plus", "Uni3D (tiny)"):
        assert fact in card
    assert (again.similarity(rows, ["a", "bbb"], teacher=Words(1024)) - rows[:, [1, 3]]).abs().max() < 1e-6
    with pytest.raises(TeacherError, match="width 512, wanted width 1024"):
        again.similarity(rows, ["a"], teacher=Words(512))


def started(file: Path, size: str, **settings: Any) -> StudentConfig:
    return replace(preset(size), norm="batch", weights=str(file), groups=64, **settings)


@torch.no_grad()
@pytest.mark.parametrize(("size", "width", "axis"), [("tiny", 1024, "y"), ("pointbert-1", 1280, "mirrored z")])
def test_a_student_that_begins_with_them_takes_points_with_z_up(tmp_path: Path, tiny: State, size: str, width: int, axis: str) -> None:
    torch.save(tiny if size == "tiny" else numbers(openshape_shapes(256, 6, 1024, 96)), tmp_path / "model.pt")
    # As many groups as points: which comes first does not matter.
    begun = started(tmp_path / "model.pt", size, group_size=16)
    original = from_pretrained(tmp_path / "model.pt").student
    original.config = begun  # type: ignore[assignment]
    xyz, rgb = (torch.from_numpy(part)[None] for part in cloud(64))
    wanted = original(xyz @ torch.from_numpy(AXES[axis].copy()), rgb).embedding
    student = begun.build(width, seed=0)
    assert student.training
    found = student.eval()(xyz, rgb).embedding
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (original(xyz, rgb).embedding - wanted).abs().max() > 0.01 * wanted.abs().max(), "which axis is up must matter here"


def test_a_student_of_another_shape_or_width_cannot_begin_with_them(tmp_path: Path, tiny: State) -> None:
    torch.save(tiny, tmp_path / "model.pt")
    begun = started(tmp_path / "model.pt", "tiny")
    for config, width, message in (
        (replace(begun, norm="layer"), 1024, r"norm=layer, wanted tiny.*student\.norm=batch"),
        (started(tmp_path / "model.pt", "small"), 1024, "dim=384, heads=6, hidden=1024, wanted tiny"),
        (started(tmp_path / "model.pt", "pointbert-1"), 1280, "kind=pointbert"),
        (begun, 512, "width 512 asked for, wanted 1024, of EVA02-E-14-plus"),
        (replace(begun, weights="nowhere.pt"), 1024, r"nowhere\.pt: got no such file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            config.build(width, seed=0)
    with torch.device("meta"):
        assert replace(begun, weights="nowhere.pt").build(1024, seed=0) is not None


def test_where_the_weights_lay_is_not_told_to_others(tmp_path: Path) -> None:
    assert blank(started(tmp_path / "model.pt", "tiny")) == replace(preset("tiny"), norm="batch", groups=64)
    assert blank(Part("somebody's")) == Part("somebody's")


def test_a_start_that_nobody_knows_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"student\.start: got 'middle', wanted corner or first"):
        ViTConfig(start="middle").build(8, seed=0)
