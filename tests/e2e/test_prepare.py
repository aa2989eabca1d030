"""From a recipe to triplets: once, by whoever comes, and the same for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from mrdist.data import order
from mrdist.data.render import cameras
from mrdist.data.shards import unit_name
from mrdist.data.synthetic import SyntheticConfig
from mrdist.data.triplets import TripletStore
from mrdist.errors import DataError, RecipeError
from mrdist.kinds import Part
from mrdist.prepare import Prepared, follow, open_prepared, prepare
from mrdist.prepare.work import Work
from mrdist.progress import Progress
from mrdist.recipe import Limits, Recipe, Views, Watch
from mrdist.teachers.base import Pairs, Rows
from tests.colours import Colours

asked: list[int] = []
"""How many views and captions teachers of this process were asked about, call by call."""


@dataclass(frozen=True)
class ColoursConfig(Part):
    """`Colours`, which look at all views first."""

    kind: str = "colours"
    width: int = 12

    def open(self, folder: Path, pairs: Pairs, *, device: str, progress: Progress) -> Colours:
        assert any(len(views) > 0 for views, _ in pairs())
        return Asked(self.width)


@dataclass(frozen=True)
class ReadyConfig(ColoursConfig):
    """The same; it says that it looks at none before it embeds."""

    learns: ClassVar[bool] = False

    def open(self, folder: Path, pairs: Pairs, *, device: str, progress: Progress) -> Colours:
        return Asked(self.width)


class Asked(Colours):
    """The same, on record."""

    def images(self, encoded: Sequence[bytes]) -> Rows:
        asked.append(len(encoded))
        return super().images(encoded)

    def texts(self, captions: Sequence[str]) -> Rows:
        asked.append(len(captions))
        return super().texts(captions)


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
        limits=Limits(seconds=300),
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
    rows = store.rows().tolist()
    assert [store.id(row) for row in rows] == [one.id for one in drawn] == sorted((shape.id for shape in prepared.catalog), key=order.place)
    assert (store.width, store.points, prepared.skipped) == (12, 32, [])
    for row, one in zip(rows, drawn, strict=True):
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


def test_where_everything_is_there_no_teacher_is_loaded_unless_all_is_to_be_compared(
    prepared: Prepared, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*given: object, **more: object) -> Colours:
        raise AssertionError("loaded")

    with monkeypatch.context() as patched:
        patched.setattr(ColoursConfig, "open", opened)
        again = prepare(recipe(place))
        assert (again.teacher.fingerprint, again.teacher.width) == ("colours12", 12)
        with pytest.raises(AssertionError, match="loaded"):
            prepare(recipe(place), thorough=True)
    np.testing.assert_allclose(again.teacher.texts(["a chair"]), Colours(12).texts(["a chair"]), atol=1e-3)


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
        TripletStore.open(prepared.store.folder).row(0)
    asked.clear()
    prepare(recipe(place))
    assert asked == []
    assert files(prepared.store.folder) == before


def test_a_changed_byte_is_found_and_its_unit_made_again_by_a_thorough_run(prepared: Prepared, place: Path) -> None:
    before = files(place)
    for folder in (prepared.renders.folder, prepared.store.folder):
        (path,) = folder.glob("00000-*.safetensors")
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    prepare(recipe(place))  # sizes are right, and to read everything whenever a run starts would take hours
    assert len(list(prepared.store.verify())) == 1
    prepare(recipe(place), thorough=True)
    assert files(place) == before


def test_views_that_turn_out_damaged_when_they_are_embedded_are_drawn_again(prepared: Prepared, place: Path) -> None:
    before = files(place)
    (path,) = prepared.renders.folder.glob("00000-*.safetensors")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (prepared.store.folder / "00000.json").unlink()
    prepare(recipe(place))
    assert files(place) == before


def test_units_are_made_in_the_order_a_run_wants_them_and_embedded_as_soon_as_they_are_drawn(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(order, "UNIT", 8)
    given = recipe(tmp_path, teacher=ReadyConfig(), seed=3, fraction=0.5)
    left: list[tuple[int, int]] = []

    def told(stage: str, done: int, total: int) -> None:
        left.append((len(list(tmp_path.glob("renders/*/0*.json"))), len(list(tmp_path.glob("triplets/*/0*.json")))))

    made = prepare(given, told)
    work = Work.open(given)
    assert all(0 <= drawn - taught <= 1 for drawn, taught in left)
    written = sorted(made.store.folder.glob("0*.json"), key=lambda path: path.stat().st_mtime_ns)
    assert [int(path.stem) for path in written] == work.order
    train = [shape.id for unit in work.units for shape in unit if shape.split == "train"]
    assert [made.store.id(row) for row in made.store.indices("train").tolist()] == train[: -(-len(train) // 2)]
    wanted = {n for n, unit in enumerate(work.units) for shape in unit if shape.id in train[: -(-len(train) // 2)]}
    assert set(work.order[: work.trained.parts]) >= wanted
    assert max(wanted) == work.trained.parts - 1
    assert sorted(work.order) == list(range(len(work.units)))
    assert work.order[: work.trained.parts] != sorted(work.order[: work.trained.parts])


def test_a_unit_that_was_drawn_and_not_embedded_is_embedded_before_others_are_drawn(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(order, "UNIT", 8)
    given = recipe(tmp_path, teacher=ReadyConfig())
    made = prepare(given)
    wanted = Work.open(given).order
    for number in wanted[2:]:
        (made.renders.folder / f"{unit_name(number)}.json").unlink()
        (made.store.folder / f"{unit_name(number)}.json").unlink()
    (made.store.folder / f"{unit_name(wanted[1])}.json").unlink()
    stages: list[str] = []
    prepare(given, lambda stage, done, total: stages.append(stage))
    assert stages.index("embed") < stages.index("render")
    assert list(made.store.verify()) == []


def test_rounds_that_the_steps_need_are_drawn_from_other_sides_and_shapes_stay_the_same(tmp_path: Path) -> None:
    given = recipe(tmp_path, teacher=ReadyConfig(), batch=10, steps=2 * 3, redraw=2)  # two batches to an epoch, three epochs
    made = prepare(given)
    assert Work.open(given).rounds(len(made.store.indices("train"))) == 2
    assert len(list((tmp_path / "renders").iterdir())) == len(list((tmp_path / "triplets").iterdir())) == 2
    again = made.later(1)
    assert again is not None
    assert made.later(2) is None
    same = [(made.store[row], again[row]) for row in made.store.rows().tolist()]
    assert all((a.id, a.captions) == (b.id, b.captions) for a, b in same)
    assert all(np.array_equal(a.points.xyz, b.points.xyz) and np.array_equal(a.text, b.text) for a, b in same)
    assert sum(not np.array_equal(a.image, b.image) for a, b in same) > len(same) // 2
    ring, turned = (np.array([camera.azimuth for camera in cameras(Work.open(given).round(r).recipe.views)]) for r in (0, 1))
    np.testing.assert_allclose((turned - ring) % 360, 137.50776, atol=1e-4)
    told: list[str] = []
    prepare(given, lambda stage, done, total: told.append(stage))
    assert told == []


def test_views_that_cannot_be_made_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"views\.ring"):
        prepare(recipe(tmp_path / "none", views=Views(ring="front5")))
    assert not (tmp_path / "none").exists()


def test_nothing_is_followed_where_nobody_prepares(prepared: Prepared, place: Path, tmp_path: Path) -> None:
    impatient = Watch(silence=0.2)
    with pytest.raises(DataError, match=r"the catalogue of tiny in .*: got nothing new for 0\.2 s.*Try: mrdist prepare"):
        follow(recipe(tmp_path, watch=impatient))
    with pytest.raises(DataError, match=r"the teacher of tiny in .*: got nothing new for 0\.2 s.*Try: mrdist prepare"):
        follow(recipe(place, watch=impatient, points=33, sample=33))
    followed = follow(recipe(place, watch=impatient))
    assert followed.store.complete()
    assert followed.store.folder == prepared.store.folder


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
