"""Embeddings on disk: never computed twice, never mixed, whatever happens to the process."""

from __future__ import annotations

import json
import multiprocessing as mp
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mrdist.errors import TeacherError
from mrdist.teachers import cache as parts
from mrdist.teachers.base import Rows
from mrdist.teachers.cache import Cache, cached_images, cached_texts
from tests.waiting import LATE


class Counting:
    """A teacher that says something different about everything, and counts how often it is asked."""

    width, fingerprint, supplies = 8, "counting", frozenset({"image", "text"})

    def __init__(self) -> None:
        self.asked: list[bytes | str] = []

    def images(self, encoded: Sequence[bytes]) -> Rows:
        self.asked += encoded
        rows = np.stack([np.random.default_rng(list(b"image" + one)).standard_normal(8) for one in encoded])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def texts(self, captions: Sequence[str]) -> Rows:
        rows = self.images([b"text" + caption.encode() for caption in captions])
        self.asked[-len(captions) :] = captions
        return rows


def test_what_was_said_once_is_not_asked_again(tmp_path: Path) -> None:
    teacher, cache = Counting(), Cache(tmp_path, "counting")
    first = cached_images(teacher, cache, [b"a", b"b", b"a", b"c"])
    assert teacher.asked == [b"a", b"b", b"c"]
    np.testing.assert_array_equal(first[0], first[2])
    second = cached_images(teacher, cache, [b"c", b"d", b"a"])
    assert teacher.asked == [b"a", b"b", b"c", b"d"]
    np.testing.assert_array_equal(second[[0, 2]], first[[3, 0]])


def test_rows_are_unit_float32_near_what_the_teacher_said_and_the_same_from_disk(tmp_path: Path) -> None:
    teacher, views = Counting(), [bytes([n]) for n in range(50)]
    with Cache(tmp_path, "counting") as cache:
        computed = cached_images(teacher, cache, views)
    np.testing.assert_allclose(computed, teacher.images(views), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(computed, axis=1), 1, atol=1e-6)
    assert computed.dtype == np.float32
    teacher.asked.clear()
    np.testing.assert_array_equal(cached_images(teacher, Cache(tmp_path, "counting"), views), computed)
    assert not teacher.asked


def test_a_caption_is_not_a_picture_of_the_same_bytes(tmp_path: Path) -> None:
    teacher, cache = Counting(), Cache(tmp_path, "counting")
    assert np.abs(cached_images(teacher, cache, [b"chair"]) - cached_texts(teacher, cache, ["chair"])).max() > 0.01
    assert teacher.asked == [b"chair", "chair"]


def test_nothing_gives_no_rows(tmp_path: Path) -> None:
    assert cached_texts(Counting(), Cache(tmp_path, "counting"), []).shape == (0, 8)


def test_teachers_are_never_mixed(tmp_path: Path) -> None:
    teacher = Counting()
    with Cache(tmp_path, "counting") as cache:
        cached_images(teacher, cache, [b"a"])
    other = Cache(tmp_path, "other")
    assert len(other) == 0
    with pytest.raises(TeacherError, match="counting"):
        cached_images(teacher, other, [b"a"])
    (part,) = (tmp_path / "counting").iterdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / part.name).write_bytes(part.read_bytes())
    with pytest.raises(TeacherError, match="rows of teacher counting"):
        Cache(tmp_path, "other")


@pytest.mark.parametrize("name", ["../up", "", "a/b", "."])
def test_a_fingerprint_stays_inside_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(TeacherError):
        Cache(tmp_path, name)


def test_many_small_additions_make_few_files_and_all_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 64)
    teacher, views = Counting(), [b"%d" % n for n in range(1000)]
    with Cache(tmp_path, "counting") as cache:
        rows = np.concatenate([cached_images(teacher, cache, views[n : n + 5]) for n in range(0, 1000, 5)])
        assert len(cache._indices) < 8
    assert len(list((tmp_path / "counting").iterdir())) == 16
    order = np.random.default_rng(0).permutation(1000)
    again = Cache(tmp_path, "counting")
    assert len(again) == 1000
    np.testing.assert_array_equal(cached_images(teacher, again, [views[n] for n in order]), rows[order])
    assert len(teacher.asked) == 1000


def test_keys_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "counting")
    keys, rows = [b"12345678" + bytes([n] * 8) for n in range(3)], np.eye(3, dtype=np.float16)
    cache.add(keys[:2], rows[:2])
    cache.flush()
    found = cache.find([*keys, b"12345678" * 2])
    np.testing.assert_array_equal(found[0], rows[0])
    assert found[2] is None
    assert found[3] is None


def test_a_part_of_another_process_is_seen_before_the_teacher_is_asked(tmp_path: Path) -> None:
    teacher, mine, theirs = Counting(), Cache(tmp_path, "counting"), Cache(tmp_path, "counting")
    cached_images(teacher, theirs, [b"a", b"b"])
    theirs.flush()
    cached_images(teacher, mine, [b"b", b"a"])
    assert teacher.asked == [b"a", b"b"]


def _embed(folder: Path, begin: int) -> None:
    with Cache(folder, "counting") as cache:
        for n in range(begin, begin + 200, 10):
            cached_images(Counting(), cache, [b"%d" % m for m in range(n, n + 10)])
            cache.flush()


def test_processes_may_add_at_the_same_time(tmp_path: Path) -> None:
    context = mp.get_context("spawn")
    processes = [context.Process(target=_embed, args=(tmp_path, begin)) for begin in (0, 100, 100)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LATE)
        assert process.exitcode == 0
    teacher, views = Counting(), [b"%d" % n for n in range(300)]
    rows = cached_images(teacher, Cache(tmp_path, "counting"), views)
    assert not teacher.asked
    np.testing.assert_allclose(rows, teacher.images(views), atol=1e-3)
    assert not [path for path in (tmp_path / "counting").iterdir() if path.name.startswith(".")]


PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.unit.teachers.test_cache import Counting
from mrdist.teachers.cache import Cache, cached_images
cache = Cache(Path({folder!r}), "counting")
cached_images(Counting(), cache, [b"a"])
{end}
"""


@pytest.mark.parametrize(("end", "left"), [("", 1), ("raise SystemExit(3)", 1), ("os.kill(os.getpid(), signal.SIGKILL)", 0)])
def test_a_program_that_ends_leaves_its_rows_and_a_killed_one_leaves_no_harm(tmp_path: Path, end: str, left: int) -> None:
    root = str(Path(__file__).resolve().parents[3])
    program = PROGRAM.format(root=root, folder=str(tmp_path), end=end)
    code = subprocess.run([sys.executable, "-c", program], cwd=root, timeout=LATE, check=False).returncode
    assert code == {"": 0, "raise SystemExit(3)": 3}.get(end, -signal.SIGKILL)
    cache = Cache(tmp_path, "counting")
    assert len(cache) == left
    cached_images(Counting(), cache, [b"a", b"b"])
    assert len(cache) == 2


def test_what_a_killed_writer_left_half_is_not_read(tmp_path: Path) -> None:
    with Cache(tmp_path, "counting") as cache:
        cached_images(Counting(), cache, [b"a"])
    (part,) = (tmp_path / "counting").iterdir()
    part.with_name(f".{part.name}.4711").write_bytes(part.read_bytes()[:50])
    assert len(Cache(tmp_path, "counting")) == 1


def test_a_damaged_part_is_set_aside_with_a_warning_and_asked_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Cache(tmp_path, "counting") as cache:
        cached_images(Counting(), cache, [b"a", b"b"])
    (part,) = (tmp_path / "counting").iterdir()
    whole = part.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    wrong = json.dumps(header | {"rows": header["rows"] | {"data_offsets": [0, 1 << 40]}}).encode()
    other = len(wrong).to_bytes(8, "little") + wrong + whole[8 + length :]
    for damage in (b"", whole[:-1], whole[:20], b"\xff" * 8 + whole[8:], whole[:8] + b"[" + whole[9:], other):
        caplog.clear()
        part.write_bytes(damage)
        teacher, cache = Counting(), Cache(tmp_path, "counting")
        assert f"{part.name}.damaged" in caplog.text
        cached_images(teacher, cache, [b"a", b"b"])
        assert teacher.asked == [b"a", b"b"]
        cache.flush()
        assert part.read_bytes() == whole


def test_a_part_that_is_damaged_while_others_are_known_costs_its_rows_only(tmp_path: Path) -> None:
    reader = Cache(tmp_path, "counting")
    with Cache(tmp_path, "counting") as writer:
        cached_images(Counting(), writer, [b"a"])
    (tmp_path / "counting" / "empty.safetensors").touch()
    teacher = Counting()
    cached_images(teacher, reader, [b"a", b"b"])
    assert teacher.asked == [b"b"]


def test_half_a_million_rows_are_opened_and_found_at_once(tmp_path: Path) -> None:
    random, keys, rows = np.random.default_rng(0), [], np.zeros((4096, 4), np.float16)
    cache = Cache(tmp_path, "counting")
    for part in range(122):
        digests = random.integers(0, 256, (4096, 16), dtype=np.uint8)
        rows[:, 0] = part
        keys.append([digests[n].tobytes() for n in range(4096)])
        cache.add(keys[-1], rows.copy())
    again = Cache(tmp_path, "counting")
    assert len(again) == 122 * 4096
    wanted = [keys[n % 122][n] for n in range(3000)]
    assert [int(row[0]) for row in again.find(wanted) if row is not None] == [n % 122 for n in range(3000)]
