"""A store gives back what was written, from any part, at once or in a million."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mrdist.data import triplets
from mrdist.data.claims import Claims
from mrdist.data.contents import ROOM
from mrdist.data.order import Prefix, place
from mrdist.data.parts import write_index, write_part
from mrdist.data.shards import Shards
from mrdist.data.triplets import TripletStore
from mrdist.data.waiting import Wait
from mrdist.errors import DataError
from mrdist.shapes import Points, Triplet
from tests.waiting import LATE

WIDTH, POINTS = 6, 32


def units(random: np.random.Generator, rows: int) -> np.ndarray:
    held = random.standard_normal((rows, WIDTH))
    return np.asarray(held / np.linalg.norm(held, axis=1, keepdims=True), np.float16)


def triplet(k: int) -> Triplet:
    """Shape k has k % 4 views and k % 3 captions."""
    random = np.random.default_rng(k)
    points = Points(
        random.uniform(-1, 1, (POINTS, 3)).astype(np.float16).astype(np.float32),
        random.integers(0, 256, (POINTS, 3)).astype(np.float32) / np.float32(255),
    )
    captions = tuple(f"Stühlchen {k} von {j}" for j in range(k % 3))
    return Triplet(f"shape-{k:03d}-é", ("", "chair", "lamp")[k % 3], points, units(random, k % 4), units(random, k % 3), captions)


def split_of(k: int) -> str:
    return "test" if k % 5 == 0 else "train"


def write_one(folder: Path, number: int, rows: Sequence[int]) -> None:
    write_part(Shards(folder), number, [triplet(k) for k in rows], [split_of(k) for k in rows], width=WIDTH, points=POINTS)


def write_store(folder: Path, parts: Sequence[Sequence[int]]) -> TripletStore:
    for number, rows in enumerate(parts):
        write_one(folder, number, rows)
    write_index(Shards(folder), len(parts), width=WIDTH, points=POINTS)
    return TripletStore.open(folder)


def same(a: Triplet, b: Triplet) -> None:
    assert (a.id, a.category, a.captions) == (b.id, b.category, b.captions)
    for one, other in ((a.points.xyz, b.points.xyz), (a.points.rgb, b.points.rgb), (a.image, b.image), (a.text, b.text)):
        np.testing.assert_array_equal(one, other, strict=True)


def test_triplets_come_back_from_uneven_and_empty_parts(tmp_path: Path) -> None:
    store = write_store(tmp_path, [range(7), [], [7], range(8, 20)])
    assert (len(store), store.width, store.points) == (20, WIDTH, POINTS)
    rows = store.rows().tolist()
    for k, row in enumerate(rows):
        same(store[row], triplet(k))
        assert store.captions(row) == triplet(k).captions
    assert store.splits == ("test", "train")
    np.testing.assert_array_equal(store.indices("test"), [rows[k] for k in (0, 5, 10, 15)])
    assert list(store.verify()) == []
    for row in (-1, 7, rows[-1] + 1, 4 * ROOM):
        with pytest.raises(IndexError):
            store[row]


def test_an_unknown_split_is_an_error_that_lists_the_others(tmp_path: Path) -> None:
    store = write_store(tmp_path, [range(7)])
    with pytest.raises(DataError, match=r"split 'tset' .* wanted one of test, train"):
        store.indices("tset")


def test_a_store_is_complete_when_its_index_is_there(tmp_path: Path) -> None:
    shards = Shards(tmp_path)
    write_part(shards, 0, [triplet(1)], ["train"], width=WIDTH, points=POINTS)
    with pytest.raises(DataError, match=r"index\.json: got no such file"):
        TripletStore.open(tmp_path)
    with pytest.raises(DataError, match=r"00001\.json"):
        write_index(shards, 2, width=WIDTH, points=POINTS)


def test_an_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'shape-001-é' more than once"):
        write_store(tmp_path, [[0, 1], [1]])


def test_a_truncated_part_is_named(tmp_path: Path) -> None:
    store = write_store(tmp_path, [range(4), range(4, 8)])
    (part,) = tmp_path.glob("00001-*.safetensors")
    os.truncate(part, part.stat().st_size - 1)
    same(store[3], triplet(3))
    with pytest.raises(DataError, match=part.name):
        store[ROOM]
    assert [part.name in wrong.what for wrong in store.verify()] == [True]


def test_a_part_of_another_store_is_named(tmp_path: Path) -> None:
    store = write_store(tmp_path, [range(4), range(4, 8)])
    write_part(Shards(tmp_path), 1, [triplet(9)], ["train"], width=WIDTH, points=POINTS)
    with pytest.raises(DataError, match=r"00001-.* got 1 shapes, wanted 4"):
        store[ROOM]


def test_no_more_than_some_parts_stay_open_and_threads_may_share_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triplets, "_OPEN_PARTS", 2)
    store = write_store(tmp_path, [[k] for k in range(12)])
    before = len(os.listdir("/proc/self/fd"))
    parts = np.random.default_rng(0).integers(0, 12, 2000)
    with ThreadPoolExecutor(4) as pool:
        for k, held in zip(parts.tolist(), pool.map(store.__getitem__, (parts * ROOM).tolist()), strict=True):
            same(held, triplet(k))
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def following(folder: Path, parts: int, patience: float = 0.2, trained: Prefix | None = None) -> TripletStore:
    """A store that others make."""
    return TripletStore.follow(folder, Wait([folder], patience), parts=parts, width=WIDTH, points=POINTS, trained=trained)


def test_a_store_that_grows_tells_of_its_parts_as_the_whole_store_does(tmp_path: Path) -> None:
    parts = [range(7), range(0), range(7, 9), range(9, 20)]
    whole = write_store(tmp_path / "whole", parts)
    grown = following(tmp_path / "grown", 4)
    assert not any(grown.has(part) for part in range(4))
    for part in (2, 0, 3, 1):
        write_one(tmp_path / "grown", part, parts[part])
        assert grown.has(part)
        for split in ("train", "test"):
            rows = grown.within(part, split)
            np.testing.assert_array_equal(rows, whole.within(part, split))
            for row in rows.tolist():
                assert (grown.id(row), grown.category(row)) == (whole.id(row), whole.category(row))
                same(grown[row], whole[row])
    assert not grown.complete()
    write_index(Shards(tmp_path / "grown"), 4, width=WIDTH, points=POINTS)
    assert grown.complete()
    np.testing.assert_array_equal(grown.indices("train"), whole.indices("train"))
    np.testing.assert_array_equal(grown.rows(), whole.rows())


def test_whoever_asks_about_the_whole_waits_for_it_until_nobody_is_at_work(tmp_path: Path) -> None:
    write_one(tmp_path, 0, range(7))
    store = following(tmp_path, 2)
    with ThreadPoolExecutor(1) as pool, Claims(tmp_path) as claims:
        claims.take("00001")
        asked = pool.submit(store.indices, "train")
        with pytest.raises(TimeoutError):
            asked.result(1.0)  # five times its patience, but there is somebody
        write_one(tmp_path, 1, range(7, 9))
        write_index(Shards(tmp_path), 2, width=WIDTH, points=POINTS)
        assert len(asked.result(LATE)) == 7
    with pytest.raises(DataError, match=r"all of .*: got nothing new for 0\.2 s, and nobody at work on it.*Try: mrdist prepare"):
        following(tmp_path / "nothing", 2).indices("train")


def test_a_damaged_part_of_a_store_that_grows_is_named_and_not_there_until_it_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_one(tmp_path, 0, range(7))
    (part,) = tmp_path.glob("00000-*.safetensors")
    os.truncate(part, part.stat().st_size - 1)
    store = following(tmp_path, 1)
    assert not store.has(0)
    assert not store.has(0)
    (line,) = caplog.messages
    assert part.name in line
    assert "run `mrdist prepare` again" in line
    write_one(tmp_path, 0, range(7))
    assert store.has(0)


def test_a_fraction_is_a_prefix_of_the_training_split_and_of_no_other(tmp_path: Path) -> None:
    order = sorted(range(40), key=lambda k: place(triplet(k).id))
    parts = [order[:15], order[15:30], order[30:]]
    whole = write_store(tmp_path, parts)
    train = [k for k in order if split_of(k) == "train"]
    for count in (1, 11, 12, 13, 32):
        last = train[count - 1]
        trained = Prefix(next(n for n, part in enumerate(parts) if last in part) + 1, place(triplet(last).id))
        cut = TripletStore.open(tmp_path, trained)
        assert [cut.id(row) for row in cut.indices("train").tolist()] == [triplet(k).id for k in train[:count]]
        np.testing.assert_array_equal(np.concatenate([cut.within(part, "train") for part in range(3)]), cut.indices("train"))
        assert cut.parts("train") == trained.parts
        assert cut.parts("test") == 3
        np.testing.assert_array_equal(cut.indices("test"), whole.indices("test"))
