"""A trained student for others: what it embeds, what it compares with, how it is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from mrdist.contract import SCALES, Contract
from mrdist.encoder import CONTRACT, TEACHER, WEIGHTS, Encoder, from_pretrained
from mrdist.errors import CheckpointError, DataError, TeacherError
from mrdist.shapes import Points
from mrdist.students.pointbert import PointBERTConfig
from mrdist.students.vit import ViTConfig
from mrdist.teachers.clip import ClipConfig
from mrdist.teachers.fit import FittedConfig

VIT = ViTConfig(dim=24, depth=2, heads=2, hidden=32, groups=12, group_size=6, channels=(8, 12, 16, 20), drop_path=0.5)
BERT = PointBERTConfig(dim=24, depth=2, heads=2, hidden=32, groups=12, group_size=6, channels=(8, 8, 16), norm="batch")


def encoder(student: ViTConfig | PointBERTConfig = VIT, **known: Any) -> Encoder:
    contract = Contract(student, 10, 64, ClipConfig(pretrained="some_tag"), "abc", {"steps": "3"})
    return Encoder(student.build(10, seed=0), replace(contract, **known))


def cloud(points: int = 64, *, seed: int = 0) -> Points:
    random = np.random.default_rng(seed)
    xyz, rgb = random.normal(size=(points, 3)), random.uniform(size=(points, 3))
    return Points.of(xyz.astype(np.float32), rgb.astype(np.float32), up="z")


class Words:
    """A teacher whose texts are known."""

    width, supplies = 10, frozenset({"text"})

    def __init__(self, fingerprint: str = "abc") -> None:
        self.fingerprint = fingerprint

    def texts(self, captions: Sequence[str]) -> NDArray[np.float32]:
        return np.eye(10, dtype=np.float32)[[len(caption) for caption in captions]]

    def images(self, encoded: Sequence[bytes]) -> NDArray[np.float32]:
        raise AssertionError


def test_embeddings_are_unit_rows_of_the_student() -> None:
    held = encoder()
    held.student.train()
    clouds = [cloud(seed=k) for k in range(5)]
    rows = held.encode(clouds)
    assert rows.shape == (5, 10)
    assert rows.dtype == torch.float32
    assert not rows.requires_grad
    assert held.student.training
    assert (rows.norm(dim=1) - 1).abs().max() < 1e-6
    xyz, rgb = torch.from_numpy(clouds[2].xyz)[None], torch.from_numpy(clouds[2].rgb)[None]
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(held.student.eval()(xyz, rgb).embedding, dim=-1)
    assert (rows[2] - wanted[0]).abs().max() < 1e-6
    assert (held.encode(clouds, batch=2) - rows).abs().max() < 1e-6
    assert (held.encode(clouds[3]) - rows[3:4]).abs().max() < 1e-6


@pytest.mark.parametrize("count", [2, 10, 63, 65, 1000])
def test_clouds_of_any_size_are_embedded_always_alike(count: int) -> None:
    held = encoder()
    assert held.encode([cloud(count), cloud()])[0].equal(held.encode([cloud(count), cloud()])[0])


def test_thinning_takes_points_from_everywhere() -> None:
    many = cloud(6400)
    seen: list[torch.Tensor] = []
    held = encoder()
    held.student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    held.encode(many)
    places = np.array([np.flatnonzero((many.xyz == row).all(1))[0] for row in seen[0][0].numpy()])
    assert len(set(places)) == 64
    assert (np.histogram(places, bins=4, range=(0, 6400))[0] > 8).all()


def test_nothing_to_embed_is_an_error() -> None:
    with pytest.raises(DataError, match="no clouds"):
        encoder().encode([])


def test_similarity_is_the_cosine_with_the_teachers_words() -> None:
    held = encoder()
    rows = held.encode([cloud(), cloud(seed=1)])
    cosines = held.similarity([cloud(), cloud(seed=1)], ["a", "bbb"], teacher=Words())
    assert (cosines - rows[:, [1, 3]]).abs().max() < 1e-6
    assert (held.similarity(3 * rows, ["a", "bbb"], teacher=Words()) - cosines).abs().max() < 1e-6


def test_another_teacher_or_none_is_a_clear_error() -> None:
    with pytest.raises(TeacherError, match="got fingerprint xyz, wanted abc"):
        encoder().similarity(cloud(), ["a"], teacher=Words("xyz"))
    with pytest.raises(TeacherError, match="some_tag"):
        encoder().similarity(cloud(), ["a"])


@pytest.mark.parametrize("student", [VIT, BERT], ids=["vit", "pointbert"])
def test_what_is_saved_comes_back(tmp_path: Path, student: ViTConfig | PointBERTConfig) -> None:
    held = encoder(student)
    again = Encoder.load(held.save(tmp_path / "chairs"))
    assert again.contract == held.contract
    assert not again.student.training
    assert again.encode(cloud()).equal(held.encode(cloud()))
    assert {path.name for path in tmp_path.iterdir()} == {"chairs"}
    card = (tmp_path / "chairs" / "README.md").read_text()
    for fact in ("64 per cloud, z up", "10 numbers", "some_tag", "abc", "| steps | 3 |"):
        assert fact in card


def test_a_run_folder_will_do_and_a_wrong_name_says_what_to_do(tmp_path: Path) -> None:
    encoder().save(tmp_path / "run" / "export")
    assert from_pretrained(tmp_path / "run").contract == from_pretrained(str(tmp_path / "run" / "export")).contract
    for name in ("nowhere", "."):
        with pytest.raises(CheckpointError, match=r"mrdist export RUN"):
            from_pretrained(tmp_path / name)


def test_saving_replaces_an_encoder_and_nothing_else(tmp_path: Path) -> None:
    encoder().save(tmp_path / "a")
    encoder(BERT).save(tmp_path / "a")
    assert isinstance(Encoder.load(tmp_path / "a").contract.student, PointBERTConfig)
    (tmp_path / "b").mkdir()
    encoder().save(tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").touch()
    with pytest.raises(CheckpointError, match="other things"):
        encoder().save(tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def rewritten(folder: Path, **change: Any) -> Path:
    tree = json.loads((folder / CONTRACT).read_text())
    (folder / CONTRACT).write_text(json.dumps({**tree, **change}))
    return folder


def with_weights(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    import hashlib

    save_file(state, folder / WEIGHTS)
    return rewritten(folder, sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest())


def test_weights_that_do_not_fit_are_one_error(tmp_path: Path) -> None:
    folder = encoder().save(tmp_path / "a")
    state = load_file(folder / WEIGHTS)
    lost = {name: value for name, value in state.items() if name != "norm.bias"}
    for wrong, message in (
        (lost, "no norm.bias"),
        ({**state, "norm.gain": torch.ones(3)}, "an unknown norm.gain"),
        ({**state, "norm.bias": torch.ones(3)}, r"norm.bias of shape \[3\], not \[24\]"),
        ({}, r"no cls_token, no cls_pos, no groups.first.0.weight, and \d+ more"),
    ):
        with pytest.raises(CheckpointError, match=message):
            Encoder.load(with_weights(folder, wrong))


def test_a_folder_from_before_axes_and_starts_could_be_named_still_loads(tmp_path: Path) -> None:
    held = encoder()
    folder = held.save(tmp_path / "a")
    tree = json.loads((folder / CONTRACT).read_text())
    assert (tree["format"], tree["axis"], tree["scale"]) == (1, "z", "unit sphere, box centred")
    for name in ("start", "weights"):
        del tree["student"][name]
    (folder / CONTRACT).write_text(json.dumps(tree))
    assert Encoder.load(folder).encode(cloud()).equal(held.encode(cloud()))


@pytest.mark.parametrize(("axis", "place"), [("z", (1, 2, 3)), ("y", (1, 3, -2)), ("mirrored z", (1, -2, 3))])
def test_clouds_are_turned_and_centred_as_the_contract_says(axis: str, place: tuple[int, int, int]) -> None:
    many = cloud()
    seen: list[torch.Tensor] = []
    for scale in SCALES:
        held = encoder(axis=axis, scale=scale)
        held.student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
        held.encode(many)
    box, mean = (rows.double().numpy() for rows in seen)
    turned = np.stack([np.sign(k) * many.xyz[:, abs(k) - 1] for k in place], axis=1).astype(np.float64)
    assert np.abs(box - turned).max() < 1e-7
    turned -= turned.mean(0)
    assert np.abs(mean - turned / np.linalg.norm(turned, axis=1).max()).max() < 1e-6
    assert np.abs(mean - box).max() > 0.01


def test_a_damaged_folder_is_one_error(tmp_path: Path) -> None:
    folder = encoder().save(tmp_path / "a")
    student: dict[str, Any] = json.loads((folder / CONTRACT).read_text())["student"]
    for change, message in (
        ({"sha256": "0"}, "other weights"),
        ({"format": 2}, "other rules"),
        ({"axis": "x"}, "other rules"),
        ({"scale": "unit cube"}, "other rules"),
        ({"colour": "RGB 0..255"}, "other rules"),
        ({"axis": ["y"]}, "unhashable"),
        ({"student": {**student, "kind": "vitt"}}, "'vitt'"),
        ({"student": {**student, "wings": 2}}, "wings: 2"),
        ({"student": {**student, "depth": "2"}}, "depth: '2'"),
        ({"student": {**student, "heads": 5}}, "a divisor of dim"),
        ({"student": {**student, "channels": [1, 2]}}, "cannot be built"),
        ({"student": 3}, "config.json"),
        ({"trained": None}, "config.json"),
        ({"width": "wide"}, "wide"),
    ):
        before = (folder / CONTRACT).read_text()
        with pytest.raises(CheckpointError, match=message):
            Encoder.load(rewritten(folder, **change))
        (folder / CONTRACT).write_text(before)
    for text in ("[]", "{", "{}", "3", "[" * 100_000):
        (folder / CONTRACT).write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            Encoder.load(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        Encoder.load(rewritten_whole(folder))


def rewritten_whole(folder: Path) -> Path:
    (folder / CONTRACT).write_text(json.dumps({"sha256": ""}))
    return folder


def open_clip_folder(folder: Path) -> Path:
    from mrdist.teachers.library import open_clip

    sizes: dict[str, Any] = {
        "embed_dim": 10,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    model = open_clip().CLIP(**sizes)
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": sizes, "preprocess_cfg": {}}))
    return folder


def test_a_fitted_teacher_is_opened_from_its_own_folder_and_never_fitted_again(tmp_path: Path) -> None:
    source = open_clip_folder(tmp_path / "fitted-1")
    fingerprint = ClipConfig(model=str(source)).open(tmp_path, lambda: iter(()), device="cpu").fingerprint
    held = encoder(teacher=FittedConfig(), teacher_fingerprint=fingerprint)
    with pytest.raises(TeacherError, match="none that is fitted already"):
        held.teacher(tmp_path)
    assert held.teacher(source).fingerprint == fingerprint


def test_an_export_that_carries_its_teacher_needs_nothing_else(tmp_path: Path) -> None:
    source = open_clip_folder(tmp_path / "teachers")
    teacher = ClipConfig(model=str(source)).open(tmp_path, lambda: iter(()), device="cpu")
    held = encoder(teacher=ClipConfig(model=str(source)), teacher_fingerprint=teacher.fingerprint)
    wanted = held.similarity(cloud(), ["a chair", "a table"])
    held.save(tmp_path / "first", teacher_folder=source)
    assert held.teacher().fingerprint == teacher.fingerprint
    for path in source.iterdir():
        path.unlink()
    # It is carried on when the encoder is saved again.
    Encoder.load(tmp_path / "first").save(tmp_path / "second")
    again = Encoder.load((tmp_path / "second").rename(tmp_path / "moved"))
    assert (again.home or tmp_path) / TEACHER in (tmp_path / "moved").iterdir()
    assert again.similarity(cloud(), ["a chair", "a table"]).equal(wanted)
    with pytest.raises(TeacherError, match=r"no open_clip_config\.json"):
        held.save(tmp_path / "third", teacher_folder=source)
    assert not (tmp_path / "third").exists()
