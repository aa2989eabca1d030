"""A store gives back what was written, from any part, at once or in a million."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mrdist.data import triplets
from mrdist.data.shards import Shards
from mrdist.data.triplets import TripletStore, write_index, write_part
from mrdist.errors import DataError
from mrdist.shapes import Points, Triplet

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


def write_store(folder: Path, parts: Sequence[Sequence[int]]) -> TripletStore:
    shards = Shards(folder)
    for number, rows in enumerate(parts):
        write_part(shards, number, [triplet(k) for k in rows], [split_of(k) for k in rows], width=WIDTH, points=POINTS)
    write_index(shards, len(parts), width=WIDTH, points=POINTS)
    return TripletStore.open(folder)


def same(a: Triplet, b: Triplet) -> None:
    assert (a.id, a.category, a.captions) == (b.id, b.category, b.captions)
    for one, other in ((a.points.xyz, b.points.xyz), (a.points.rgb, b.points.rgb), (a.image, b.image), (a.text, b.text)):
        np.testing.assert_array_equal(one, other, strict=True)


def test_triplets_come_back_from_uneven_and_empty_parts(tmp_path: Path) -> None:
    store = write_store(tmp_path, [range(7), [], [7], range(8, 20)])
    assert (len(store), store.width, store.points) == (20, WIDTH, POINTS)
    for k in range(20):
        same(store[k], triplet(k))
        assert store.captions(k) == triplet(k).captions
    assert store.splits == ("test", "train")
    assert store.categories == ("", "chair", "lamp")
    np.testing.assert_array_equal(store.indices("test"), [0, 5, 10, 15])
    assert list(store.verify()) == []
    for row in (-1, 20):
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
        store[4]
    assert [part.name in wrong.what for wrong in store.verify()] == [True]


def test_a_part_of_another_store_is_named(tmp_path: Path) -> None:
    store = write_store(tmp_path, [range(4), range(4, 8)])
    write_part(Shards(tmp_path), 1, [triplet(9)], ["train"], width=WIDTH, points=POINTS)
    with pytest.raises(DataError, match=r"00001-.* got 1 shapes, wanted 4"):
        store[4]


def test_no_more_than_some_parts_stay_open_and_threads_may_share_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triplets, "_OPEN_PARTS", 2)
    store = write_store(tmp_path, [[k] for k in range(12)])
    before = len(os.listdir("/proc/self/fd"))
    rows = np.random.default_rng(0).integers(0, 12, 2000).tolist()
    with ThreadPoolExecutor(4) as pool:
        for k, held in zip(rows, pool.map(store.__getitem__, rows), strict=True):
            same(held, triplet(k))
    assert len(os.listdir("/proc/self/fd")) <= before + 2
