"""Teachers from open_clip: real models of the library, small and untrained."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mrdist.errors import TeacherError
from mrdist.teachers.clip import ClipConfig, ClipTeacher
from mrdist.teachers.library import open_clip
from tests.unit.teachers.small import TEXT, VISION, checkpoint, jpeg, pictures

NOBODY = Path("/nowhere")
CAPTIONS = ["a red chair", "a chair!", "two small tables beside a very long and wide wooden bed with a ladder", ""]


def opened(config: ClipConfig) -> ClipTeacher:
    return config.open(NOBODY, lambda: iter(()), device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("teachers") / "tiny")


@pytest.fixture(scope="module")
def teacher(folder: Path) -> ClipTeacher:
    return opened(ClipConfig(model=str(folder)))


def test_rows_are_what_open_clip_itself_computes(folder: Path, teacher: ClipTeacher) -> None:
    library = open_clip()
    model, transform = library.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = library.get_tokenizer(f"local-dir:{folder}")
    views = pictures(3) + pictures(2, height=64, width=20)
    with torch.no_grad():
        batch = torch.stack([transform(Image.open(io.BytesIO(view))) for view in views])
        images = model.eval().encode_image(batch, normalize=True).numpy()
        texts = model.encode_text(tokenizer(CAPTIONS), normalize=True).numpy()
    np.testing.assert_allclose(teacher.images(views), images, atol=1e-5)
    np.testing.assert_allclose(teacher.texts(CAPTIONS), texts, atol=1e-5)


def test_rows_are_float32_of_unit_length_even_for_nothing(teacher: ClipTeacher) -> None:
    for rows in (teacher.images(pictures(5)), teacher.texts(CAPTIONS)):
        assert rows.dtype == np.float32
        assert rows.shape[1] == teacher.width == 24
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert teacher.images([]).shape == teacher.texts([]).shape == (0, 24)
    assert teacher.supplies >= {"image", "text"}


def test_neither_order_nor_batch_size_changes_a_row(folder: Path, teacher: ClipTeacher) -> None:
    views, order = pictures(7), [3, 0, 6, 2, 5, 1, 4]
    by_threes = opened(ClipConfig(model=str(folder), batch=3))
    np.testing.assert_allclose(by_threes.images([views[i] for i in order]), teacher.images(views)[order], atol=1e-6)
    captions = [f"{n} chairs and a table" for n in range(7)]
    np.testing.assert_allclose(by_threes.texts([captions[i] for i in order]), teacher.texts(captions)[order], atol=1e-6)


def test_a_fingerprint_names_weights_looks_and_precision_but_not_the_place(tmp_path: Path, teacher: ClipTeacher) -> None:
    same = opened(ClipConfig(model=str(checkpoint(tmp_path / "moved")), batch=2))
    assert same.fingerprint == teacher.fingerprint
    others = [
        opened(ClipConfig(model=str(checkpoint(tmp_path / "weights", seed=1)))),
        opened(ClipConfig(model=str(checkpoint(tmp_path / "looks", looks={"mean": [0.4, 0.5, 0.61]})))),
        opened(ClipConfig(model=str(checkpoint(tmp_path / "activation", quick_gelu=True)))),
        opened(ClipConfig(model=str(tmp_path / "moved"), precision="bf16")),
    ]
    assert len({one.fingerprint for one in [teacher, *others]}) == 5


def test_a_single_changed_weight_is_another_teacher(tmp_path: Path, teacher: ClipTeacher) -> None:
    folder = checkpoint(tmp_path / "one")
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["token_embedding.weight"][40000, 7] += 1e-3
    save_file(weights, folder / "open_clip_model.safetensors")
    assert opened(ClipConfig(model=str(folder))).fingerprint != teacher.fingerprint


def test_bf16_is_nearly_the_same(folder: Path, teacher: ClipTeacher) -> None:
    half = opened(ClipConfig(model=str(folder), precision="bf16"))
    views = pictures(4)
    assert (half.images(views) * teacher.images(views)).sum(1).min() > 0.999
    assert (half.texts(CAPTIONS) * teacher.texts(CAPTIONS)).sum(1).min() > 0.999


@pytest.mark.parametrize("custom", [False, True])
def test_tokens_end_with_what_the_caption_embedding_is_made_of(tmp_path: Path, custom: bool) -> None:
    teacher = opened(ClipConfig(model=str(checkpoint(tmp_path / "tiny", custom_text=custom))))
    assert "caption tokens" in teacher.supplies
    tokens, there = teacher.tokens(CAPTIONS)
    assert tokens.shape == (4, 12, 32)
    assert there.sum(1).tolist() == [5, 5, 12, 2]  # start, words, end; the third is cut
    assert not tokens[~there].any()
    text = teacher._model.text if custom else teacher._model
    ends = tokens[np.arange(4), there.sum(1) - 1] @ text.text_projection.numpy()
    np.testing.assert_allclose(ends / np.linalg.norm(ends, axis=1, keepdims=True), teacher.texts(CAPTIONS), atol=1e-5)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a small model with one pretrained tag, as if open_clip listed it."""
    library = open_clip()
    description = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
    tag = {"hf_hub": "nobody/tiny/", "quick_gelu": True, "mean": [0.1] * 3, "std": [0.2] * 3}
    monkeypatch.setitem(library.factory._MODEL_CONFIGS, "tiny", description)
    monkeypatch.setitem(library.pretrained._PRETRAINED, "tiny", {"tag": tag | {"interpolation": "bilinear", "resize_mode": "squash"}})
    return "tiny"


def test_a_named_model_takes_its_looks_from_the_tag_and_its_weights_from_a_file(tiny: str, tmp_path: Path) -> None:
    model = open_clip().create_model(tiny)
    save_file(model.state_dict(), tmp_path / "tiny.safetensors")
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    tagged = opened(ClipConfig(model=tiny, pretrained="tag", weights=str(tmp_path / "tiny.safetensors")))
    assert tagged._model.visual.preprocess_cfg["mean"] == [0.1] * 3
    assert type(tagged._model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    bare = opened(ClipConfig(model=tiny, weights=str(tmp_path / "tiny.safetensors")))
    assert bare.fingerprint != tagged.fingerprint
    assert opened(ClipConfig(model=tiny, weights=str(tmp_path / "tiny.pt"))).fingerprint == bare.fingerprint


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ClipConfig(model="ViT-B/32"), ["'ViT-B/32'", "ViT-B-32"]),
        (ClipConfig(pretrained="laion2b_s34b_b79"), ["'laion2b_s34b_b79'", "laion2b_s34b_b79k"]),
        (ClipConfig(), ["neither a tag nor weights"]),
        (ClipConfig(weights="missing.safetensors"), ["missing.safetensors", "no such file"]),
        (ClipConfig(precision="fp16"), ["'fp16'", "bf16"]),
        (ClipConfig(batch=0), ["teacher.batch"]),
    ],
)
def test_what_is_unknown_is_named_with_the_nearest_guess(config: ClipConfig, words: list[str]) -> None:
    with pytest.raises(TeacherError) as caught:
        opened(config)
    assert all(word in str(caught.value) for word in words), caught.value


def test_files_that_are_no_weights_of_this_model_are_refused(tiny: str, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "short.safetensors").write_bytes(b"12345")
    (tmp_path / "weights.npz").write_bytes(b"")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name in ("evil.pt", "short.safetensors", "weights.npz", "other.safetensors"):
        with pytest.raises(TeacherError):
            opened(ClipConfig(model=tiny, weights=str(tmp_path / name)))
    assert not (tmp_path / "harm").exists()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}}))
    with pytest.raises(TeacherError):
        opened(ClipConfig(model=str(tmp_path / "empty")))


def test_bytes_that_are_no_picture_are_refused(teacher: ClipTeacher) -> None:
    whole = pictures(1)[0]
    for wrong in (b"", b"no picture", whole[: len(whole) // 2]):
        with pytest.raises(TeacherError, match="picture"):
            teacher.images([whole, wrong])


def test_grey_and_transparent_pictures_are_pictures(teacher: ClipTeacher) -> None:
    held = io.BytesIO()
    Image.new("RGBA", (30, 30), (255, 0, 0, 128)).save(held, "PNG")
    rows = teacher.images([jpeg(np.full((32, 32), 99, np.uint8)), held.getvalue()])
    assert np.isfinite(rows).all()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and a hub where nobody answers."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path


def test_a_file_downloaded_before_needs_no_network(tiny: str, hub: Path) -> None:
    snapshot = hub / "models--nobody--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (hub / "models--nobody--tiny" / "refs").mkdir()
    (hub / "models--nobody--tiny" / "refs" / "main").write_text("abc")
    save_file(open_clip().create_model(tiny).state_dict(), snapshot / "open_clip_model.safetensors")
    assert opened(ClipConfig(model=tiny, pretrained="tag")).width == 24


@pytest.mark.parametrize(("offline", "reason"), [(True, "HF_HUB_OFFLINE"), (False, "refused")])
def test_a_missing_download_is_one_clear_error_at_once(offline: bool, reason: str, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    with pytest.raises(TeacherError) as caught:
        opened(ClipConfig(model="ViT-B-32", pretrained="laion2b_s34b_b79k"))
    assert naps == [], "nobody tries once more, after a while"
    assert all(word in str(caught.value) for word in ("ViT-B-32:laion2b_s34b_b79k", reason, str(hub), "Try: ")), caught.value
