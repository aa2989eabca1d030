"""From a recipe to triplets: once, by whoever comes, and the same for all."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrdist.data.synthetic import SyntheticConfig
from mrdist.data.triplets import TripletStore
from mrdist.errors import DataError
from mrdist.kinds import Part
from mrdist.prepare import Prepared, open_prepared, prepare
from mrdist.progress import Progress
from mrdist.recipe import Limits, Recipe, Views
from mrdist.teachers.base import Pairs, Rows

asked: list[int] = []
"""How many views and captions teachers of this process were asked about, call by call."""


@dataclass(frozen=True)
class ColoursConfig(Part):
    """A teacher that needs no training: what colours a picture has, and which letters a caption."""

    kind: str = "colours"
    width: int = 12

    def open(self, folder: Path, pairs: Pairs, *, device: str, progress: Progress) -> Colours:
        assert any(len(views) > 0 for views, _ in pairs())
        return Colours(self.width)


class Colours:
    """See `ColoursConfig`."""

    supplies = frozenset({"image", "text"})

    def __init__(self, width: int) -> None:
        self.width, self.fingerprint = width, f"colours{width}"

    def images(self, encoded: Sequence[bytes]) -> Rows:
        asked.append(len(encoded))
        return self._rows([np.asarray(Image.open(io.BytesIO(one)).resize((2, 2))).reshape(-1)[: self.width] for one in encoded])

    def texts(self, captions: Sequence[str]) -> Rows:
        asked.append(len(captions))
        return self._rows([np.bincount(np.frombuffer(one.encode(), np.uint8) % self.width, minlength=self.width) for one in captions])

    def _rows(self, held: list[np.ndarray]) -> Rows:
        rows = np.array(held, np.float32).reshape(len(held), self.width) + 1
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def recipe(store: Path, **changes: object) -> Recipe:
    given = Recipe(
        name="tiny",
        points=32,
        sample=32,
        workers=1,
        device="cpu",
        store=str(store),
        data=SyntheticConfig(train=1, val=0, test=1, unseen=1),
        views=Views(ring="front4", pixels=16, supersampling=1),
        limits=Limits(seconds=20),
        teacher=ColoursConfig(),
    )
    return replace(given, **changes)  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name[0] != "."
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def prepared(place: Path) -> Prepared:
    return prepare(recipe(place))


def test_triplets_are_what_was_drawn_and_what_the_teacher_says_of_it(prepared: Prepared) -> None:
    store, teacher = prepared.store, Colours(12)
    drawn = list(prepared.renders)
    assert [store.id(row) for row in range(len(store))] == [one.id for one in drawn] == sorted(shape.id for shape in prepared.catalog)
    assert (store.width, store.points, prepared.skipped) == (12, 32, [])
    for row, one in enumerate(drawn):
        held = store[row]
        assert (held.category, held.captions) == (one.category, one.captions)
        np.testing.assert_array_equal(held.points.xyz, one.xyz)
        np.testing.assert_allclose(held.points.rgb * 255, one.rgb, atol=1e-4)
        np.testing.assert_allclose(held.image, teacher.images(one.views), atol=1e-3)
        np.testing.assert_allclose(held.text, teacher.texts(one.captions), atol=1e-3)
    for split in store.splits:
        assert {store.id(row) for row in store.indices(split)} == {shape.id for shape in prepared.catalog.split(split)}
    assert list(store.verify()) == []


def test_a_second_time_nothing_is_done_and_nothing_is_asked(prepared: Prepared, place: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file() and path.parent.name != "prepared"}
    asked.clear()
    told: list[str] = []
    again = prepare(recipe(place), lambda stage, done, total: told.append(stage))
    assert asked == []
    assert told == []
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.store.folder == prepared.store.folder


def test_other_ranks_open_what_the_first_prepared(prepared: Prepared, place: Path) -> None:
    opened = open_prepared(recipe(place))
    assert opened.store.folder == prepared.store.folder
    assert "teacher" not in vars(opened)
    assert opened.teacher.fingerprint == "colours12"


def test_what_was_not_prepared_cannot_be_opened(prepared: Prepared, place: Path) -> None:
    for changed in (recipe(place, points=33, sample=33), recipe(place, teacher=ColoursConfig(width=5))):
        with pytest.raises(DataError, match=r"Try: .*mrdist prepare"):
            open_prepared(changed)


def test_another_teacher_needs_no_new_renders_and_is_kept_apart(prepared: Prepared, place: Path) -> None:
    other = prepare(recipe(place, teacher=ColoursConfig(width=6)))
    assert other.renders.folder == prepared.renders.folder
    assert other.store.folder != prepared.store.folder
    assert (other.store.width, prepared.store.width) == (6, 12)


def test_a_truncated_part_is_made_again_from_what_is_known(prepared: Prepared, place: Path) -> None:
    before = files(prepared.store.folder)
    (part,) = prepared.store.folder.glob("00000-*.safetensors")
    os.truncate(part, 50)
    with pytest.raises(DataError, match=part.name):
        TripletStore.open(prepared.store.folder)[0]
    asked.clear()
    prepare(recipe(place))
    assert asked == []
    assert files(prepared.store.folder) == before


def process(store: Path) -> subprocess.Popen[str]:
    code = f"""
from pathlib import Path
from mrdist.prepare import prepare
from tests.e2e.test_prepare import recipe
prepare(recipe(Path({str(store)!r})), lambda stage, done, total: print(stage, done, flush=True))
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def until(run: subprocess.Popen[str], seen: Callable[[str, int], bool]) -> None:
    assert run.stdout is not None
    for line in run.stdout:
        stage, _, done = line.rpartition(" ")
        if seen(stage, int(done)):
            return
    raise AssertionError("it ended too early")


def test_two_that_prepare_one_store_at_once_and_one_that_is_killed_leave_it_valid(prepared: Prepared, tmp_path: Path) -> None:
    killed, other = process(tmp_path), process(tmp_path)
    until(killed, lambda stage, done: stage == "render" and done > 3)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    result = prepare(recipe(tmp_path))
    other.communicate()
    assert other.returncode == 0
    for mine, reference in ((result.renders.folder, prepared.renders.folder), (result.store.folder, prepared.store.folder)):
        assert files(mine) == files(reference)
    assert list(result.store.verify()) == list(result.renders.verify()) == []
    assert not list(tmp_path.rglob("*.claim"))
