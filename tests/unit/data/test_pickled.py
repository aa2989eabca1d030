"""Pickles are read as data: what numpy wrote comes back, and nothing that a file says is done."""

from __future__ import annotations

import math
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrdist.data.sources.pickled import read
from mrdist.errors import DataError
from tests.foreign import hostile, npy, openshape_shape

LIMIT = 1 << 22
_TRAP = Path("/nonexistent")


def same(one: Any, other: Any) -> None:
    if isinstance(other, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other, strict=True)
    elif isinstance(other, dict):
        assert one.keys() == other.keys()
        for name in other:
            same(one[name], other[name])
    elif isinstance(other, list | tuple):
        assert type(one) is type(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    else:
        assert one == other
        assert not isinstance(one, np.generic)


THINGS: dict[str, Any] = {
    "shape": openshape_shape("Objaverse", "000-001", "abc", 2),
    "numbers": {"f": np.float32(3.5), "i": np.int64(-4), "b": np.bool_(True), "big": 1 << 70, "pi": math.pi, "none": None, "yes": True},
    "texts": {"é": "ü" * 300, "bytes": b"\x00\xff", "empty": b"", "tuple": (1, (2,), ()), "names": np.array(["ab", "c"])},
    "arrays": {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "big endian": np.arange(3, dtype=">i4"), "empty": np.zeros((0, 3)),
        "half": np.ones((1, 4), np.float16), "flags": np.array([True, False]), "none": np.float64(2) * np.ones(()),
    },
    "shared": [[np.arange(3)] * 2] * 2,
}  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", THINGS)
def test_what_numpy_wrote_comes_back(tmp_path: Path, name: str, protocol: int) -> None:
    held = np.empty((), dtype=object)
    held[()] = THINGS[name]
    (tmp_path / "a.npy").write_bytes(npy(pickle.dumps(held, protocol)))
    same(read(tmp_path / "a.npy", limit=LIMIT), THINGS[name])


def test_lists_of_clouds_and_plain_arrays_come_back(tmp_path: Path) -> None:
    clouds = [{"xyz": np.zeros((4, 3)), "rgb": np.ones((4, 3), np.uint8)}, {"xyz": np.zeros((0, 3))}]
    np.save(tmp_path / "list.npy", np.array(clouds, dtype=object), allow_pickle=True)
    same(read(tmp_path / "list.npy", limit=LIMIT), clouds)
    table = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    np.save(tmp_path / "plain.npy", np.asfortranarray(table))
    same(read(tmp_path / "plain.npy", limit=LIMIT), table)


@pytest.mark.parametrize("name", hostile(_TRAP))
def test_a_hostile_file_is_refused_by_name_and_runs_nothing(tmp_path: Path, name: str) -> None:
    trap = tmp_path / "trap"
    data, said = hostile(trap)[name]
    path = tmp_path / "hostile.npy"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=said) as caught:
            read(path, limit=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert not trap.exists()
    assert "hostile.npy" in str(caught.value)
    assert caught.value.try_


def test_the_traps_do_work_where_pickles_are_trusted(tmp_path: Path) -> None:
    data, _ = hostile(tmp_path / "trap")["in a dict 4"]
    (tmp_path / "a.npy").write_bytes(data)
    np.load(tmp_path / "a.npy", allow_pickle=True)
    assert (tmp_path / "trap").exists()


def test_a_file_that_is_larger_than_it_may_be_is_not_opened(tmp_path: Path) -> None:
    with open(tmp_path / "huge.npy", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match=r"huge\.npy: got 1048576 MB, wanted at most 4 MB"):
        read(tmp_path / "huge.npy", limit=LIMIT)
    with pytest.raises(DataError, match="No such file"):
        read(tmp_path / "none.npy", limit=LIMIT)
