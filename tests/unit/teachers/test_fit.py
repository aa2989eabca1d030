"""Small teachers trained on the spot: they learn what they are shown, once, and leave an ordinary checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mrdist.errors import TeacherError
from mrdist.progress import silent
from mrdist.teachers.clip import ClipConfig
from mrdist.teachers.fit import FittedConfig, _surprise, fit
from tests.unit.teachers.small import jpeg

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 50), "blue": (30, 60, 210), "yellow": (240, 220, 40)}
SMALL = FittedConfig(pixels=32, width=32, channels=8, text_width=32, context=8, steps=100, batch=32, lr=4e-3, word_dropout=0.1)
NONE = replace(SMALL, steps=2, batch=8)


def figure(colour: str, shape: str, size: int) -> bytes:
    """A disc or a bar on light grey."""
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    inside = np.hypot(x, y) < size / 20 if shape == "disc" else np.maximum(abs(x), 4 * abs(y)) < size / 18
    return jpeg(np.where(inside[..., None], np.array(COLOURS[colour]), 217).astype(np.uint8))


def lessons() -> Iterator[tuple[Sequence[bytes], Sequence[str]]]:
    """Eight shapes, two views each; "a disc" and "a bar" are each true of four."""
    for colour in COLOURS:
        for shape in ("disc", "bar"):
            yield [figure(colour, shape, size) for size in (11, 15)], [f"a {colour} {shape}", f"a {shape}"]


def test_a_fitted_teacher_knows_what_it_was_shown_and_is_an_ordinary_checkpoint(tmp_path: Path) -> None:
    teacher = SMALL.open(tmp_path, lessons, device="cpu")
    captions = [said[0] for _, said in lessons()]
    unseen_sizes = [figure(*caption.split()[1:], size=13) for caption in captions]
    assert (teacher.images(unseen_sizes) @ teacher.texts(captions).T).argmax(1).tolist() == list(range(8))
    assert (teacher.images(unseen_sizes) @ teacher.texts(["a disc", "a bar"]).T).argmax(1).tolist() == [0, 1] * 4
    (place,) = tmp_path.iterdir()
    same = ClipConfig(model=str(place)).open(tmp_path, lessons, device="cpu")
    assert same.fingerprint == teacher.fingerprint
    np.testing.assert_allclose(same.texts(captions), teacher.texts(captions), atol=1e-6)


def test_it_is_trained_once_and_says_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    first = fit(NONE, lessons, tmp_path, "cpu", lambda *now: told.append(now))
    assert [done for stage, done, total in told if stage == "fit teacher" and total == 2] == [0, 1, 2]
    told.clear()
    written = (first / "open_clip_model.safetensors").stat().st_mtime_ns
    assert fit(NONE, lessons, tmp_path, "cpu", lambda *now: told.append(now)) == first
    assert not told
    assert (first / "open_clip_model.safetensors").stat().st_mtime_ns == written
    assert json.loads((first / "fit.json").read_text())["shapes"] == 8


def test_other_pairs_captions_or_settings_give_another_teacher(tmp_path: Path) -> None:
    def fewer() -> Iterator[tuple[Sequence[bytes], Sequence[str]]]:
        return (pair for number, pair in enumerate(lessons()) if number)

    def renamed() -> Iterator[tuple[Sequence[bytes], Sequence[str]]]:
        return ((views, [caption.replace("disc", "circle") for caption in captions]) for views, captions in lessons())

    def smaller() -> Iterator[tuple[Sequence[bytes], Sequence[str]]]:
        return ((views[:1], captions) for views, captions in lessons())

    places = {fit(NONE, pairs, tmp_path, "cpu") for pairs in (lessons, fewer, renamed, smaller)}
    places.add(fit(replace(NONE, lr=1e-3), lessons, tmp_path, "cpu"))
    assert len(places) == 5


def test_the_same_seed_gives_the_same_weights_whatever_the_callers_chance(tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = load_file(fit(NONE, lessons, tmp_path / "one", "cpu") / "open_clip_model.safetensors")
    torch.manual_seed(2)
    before = torch.get_rng_state()
    two = load_file(fit(NONE, lessons, tmp_path / "two", "cpu") / "open_clip_model.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_fit_that_is_stopped_leaves_nothing_and_starts_again(tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("fit teacher", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(NONE, lessons, tmp_path, "cpu", stop)
    assert not list(tmp_path.iterdir())
    place = fit(NONE, lessons, tmp_path, "cpu")
    (place / "fit.json").unlink()
    assert fit(NONE, lessons, tmp_path, "cpu") == place
    assert (place / "fit.json").is_file()


def test_of_two_fits_at_the_same_time_the_first_wins(tmp_path: Path) -> None:
    def meanwhile(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("fit teacher", 1):
            fit(NONE, lessons, tmp_path, "cpu", silent)

    place = fit(NONE, lessons, tmp_path, "cpu", meanwhile)
    assert list(tmp_path.iterdir()) == [place]


def test_a_caption_counts_for_every_shape_that_has_it() -> None:
    torch.manual_seed(0)
    logits, true = (
        torch.randn(4, 5, dtype=torch.float64),
        torch.tensor([[1, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]).bool(),
    )
    expected = 0.0
    for row, marks in zip(logits, true, strict=True):
        share = row.exp() / row.exp().sum()
        expected -= float(share[marks].log().mean()) / 4
    assert float(_surprise(logits, true)) == pytest.approx(expected, abs=1e-12)


def test_words_that_no_caption_has_all_read_as_the_same_gap(tmp_path: Path) -> None:
    teacher = NONE.open(tmp_path, lessons, device="cpu")
    zebra, lobster, disc = teacher.texts(["a red zebra", "a red lobster", "a red disc"])
    np.testing.assert_array_equal(zebra, lobster)
    assert np.abs(zebra - disc).max() > 1e-4


def test_without_anything_to_learn_it_says_so(tmp_path: Path) -> None:
    for pairs in ([], [([], ["a chair"])] * 3, [([figure("red", "disc", 12)], [])] * 3, [([figure("red", "disc", 12)], ["a disc"])]):
        with pytest.raises(TeacherError, match="shapes to learn from"):
            fit(NONE, lambda pairs=pairs: iter(pairs), tmp_path, "cpu")
    with pytest.raises(TeacherError, match="picture"):
        fit(NONE, lambda: iter([([b"no picture"], ["a disc"])] * 2), tmp_path, "cpu")


@pytest.mark.parametrize(("name", "value"), [("pixels", 50), ("steps", 0), ("batch", 1), ("text_width", 40), ("context", 2)])
def test_settings_that_cannot_be_are_refused_by_name(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(TeacherError, match=f"teacher.{name}"):
        fit(replace(NONE, **{name: value}), lessons, tmp_path, "cpu")
