"""Units are there, whole, and their own, or they are not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mrdist.data.claims import Claims, Worklist, held
from mrdist.data.shards import Shards, join, pack, publish, split, unit_name
from mrdist.errors import DataError
from tests.waiting import until


def arrays(seed: int, rows: int = 5) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"xyz": random.random((rows, 7, 3)).astype(np.float16), "at": np.arange(rows + 1), "none": np.zeros((0, 4), np.float32)}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_unit_comes_back_as_it_was_written(tmp_path: Path) -> None:
    shards, held = Shards(tmp_path), arrays(0)
    shards.write("00003", held, {"ids": ["é", "b"]})
    read, unit = shards.read("00003")
    opened, same = shards.open("00003")
    assert unit == same
    assert unit.notes == {"ids": ["é", "b"]}
    for name, value in held.items():
        np.testing.assert_array_equal(read[name], value, strict=True)
        np.testing.assert_array_equal(opened[name], value, strict=True)
    np.testing.assert_array_equal(opened.rows("xyz", 2, 4), held["xyz"][2:4])
    assert list(shards.verify()) == []
    assert shards.missing(range(5)) == [0, 1, 2, 4]


def test_equal_units_are_equal_files(tmp_path: Path) -> None:
    for name in "ab":
        held = arrays(0)
        Shards(tmp_path / name).write("00000", dict(reversed(held.items())) if name == "b" else held, {"ids": [1]})
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_pieces_that_are_joined_can_be_split(tmp_path: Path) -> None:
    assert split(*pack(["", "a chair", "ein Stühlchen", ""])) == [b"", b"a chair", "ein Stühlchen".encode(), b""]
    assert split(*join([])) == []


@pytest.mark.parametrize("harm", ["truncated", "longer", "gone"])
def test_a_unit_of_the_wrong_size_is_named_and_done_again(tmp_path: Path, harm: str) -> None:
    shards = Shards(tmp_path)
    unit = shards.write("00001", arrays(1), {})
    path = tmp_path / unit.file
    before = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(before[:-10] if harm == "truncated" else before + b"x")
    with pytest.raises(DataError, match=rf"{unit.file}: got .*Try: run `mrdist prepare` again"):
        shards.open("00001")
    assert shards.missing([1]) == [1]
    assert [unit.file in wrong.what for wrong in shards.verify()] == [True]
    shards.write("00001", arrays(1), {})
    assert path.read_bytes() == before


def test_a_changed_byte_is_found_by_its_hash(tmp_path: Path) -> None:
    shards = Shards(tmp_path)
    unit = shards.write("00001", arrays(1), {})
    content = bytearray((tmp_path / unit.file).read_bytes())
    content[-1] ^= 1
    (tmp_path / unit.file).write_bytes(content)
    assert shards.has("00001")
    (wrong,) = shards.verify()
    assert unit.file in wrong.what
    assert "sha256" in wrong.got
    with pytest.raises(DataError, match=rf"{unit.file}: got sha256 .*Try: run `mrdist prepare` again"):
        shards.read("00001")
    assert shards.missing([1]) == []
    assert shards.missing([1], thorough=True) == [1]
    assert shards.missing([1]) == [1]  # nobody takes it for done any more
    shards.write("00001", arrays(1), {})
    assert shards.missing([1], thorough=True) == []


def test_a_file_that_is_cut_off_while_it_is_open_is_an_error_not_a_signal(tmp_path: Path) -> None:
    shards = Shards(tmp_path)
    unit = shards.write("00000", {"rows": np.zeros((4, 1 << 16), np.float32)}, {})
    opened, _ = shards.open("00000")
    os.truncate(tmp_path / unit.file, 1 << 16)
    with pytest.raises(DataError, match="bytes too early"):
        opened.rows("rows", 3, 4)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"file": 1}',
        b"[" * 100_000,
        b'{"file":"../../secret.safetensors","bytes":1,"sha256":""}',
        b'{"file":"00000-0123456789ab.safetensors/../x","bytes":1,"sha256":""}',
    ],
)
def test_a_marker_that_is_none_is_a_missing_unit(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "00000.json").write_bytes(text)
    assert Shards(tmp_path).missing([0]) == [0]
    with pytest.raises(DataError, match=r"00000\.json"):
        Shards(tmp_path).unit("00000")


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x10" + b"\0" * 7 + b'{"a":1}' + b" " * 9])
def test_tensors_that_are_none_are_named(tmp_path: Path, content: bytes) -> None:
    shards = Shards(tmp_path)
    unit = shards.write("00000", arrays(0), {})
    (tmp_path / unit.file).write_bytes(content)
    marker = json.loads((tmp_path / "00000.json").read_bytes())
    (tmp_path / "00000.json").write_text(json.dumps({**marker, "bytes": len(content)}))
    with pytest.raises(DataError, match="safetensors"):
        shards.open("00000")
    with pytest.raises(DataError, match="safetensors"):
        shards.read("00000")


def test_a_full_disk_leaves_no_half_unit(tmp_path: Path) -> None:
    """A limit on file sizes fails a write half-way, as a full disk does."""
    code = """
import sys, resource, numpy as np
from pathlib import Path
from mrdist.data.shards import Shards
from mrdist.errors import DataError
shards = Shards(Path(sys.argv[1]))
shards.write("00000", {"small": np.zeros(10)}, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    shards.write("00001", {"large": np.zeros(1 << 16)}, {})
except DataError as wrong:
    print(wrong)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "File too large, wanted" in done.stdout
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    assert Shards(tmp_path).missing(range(2)) == [1]


WRITE_FOR_EVER = """
import sys, numpy as np
from pathlib import Path
from mrdist.data.shards import Shards, unit_name
shards, seed = Shards(Path(sys.argv[1])), int(sys.argv[2])
while True:
    for number in range(4):
        # Each writer has its own idea of every unit: nothing but the marker says whose tensors count.
        shards.write(unit_name(number), {"who": np.full(50_000, seed)}, {"who": seed})
    print("all four", flush=True)
"""


def test_writers_that_disagree_and_are_killed_never_leave_a_mixed_unit(tmp_path: Path) -> None:
    shards, read = Shards(tmp_path), list[int]()

    def both_are_read_often() -> bool:
        for number in range(4):
            if shards.has(unit_name(number)):
                held, unit = shards.read(unit_name(number))
                assert (held["who"] == unit.notes["who"]).all()
                read.append(unit.notes["who"])
        return len(read) > 100 and len(set(read)) == 2

    for _ in range(2):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path), str(seed)], stdout=subprocess.PIPE) for seed in (1, 2)
        ]
        read.clear()
        until(both_are_read_often, "units of both writers")
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"all four\n"
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        assert list(shards.verify()) == []
    assert shards.missing(range(4)) == []


def test_what_killed_writers_left_is_swept_once_it_is_old(tmp_path: Path) -> None:
    shards = Shards(tmp_path)
    unit = shards.write("00000", arrays(0), {})
    old, young, orphan = tmp_path / ".00001.json.1.tmp", tmp_path / ".00001.json.2.tmp", tmp_path / "00001-0123456789ab.safetensors"
    for path in (old, young, orphan):
        path.write_bytes(b"half")
    for path in (old, orphan, tmp_path / unit.file):
        os.utime(path, (0, 0))
    shards.sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([young.name, "00000.json", unit.file])


def test_publish_replaces_a_file_whole(tmp_path: Path) -> None:
    publish(tmp_path / "deep" / "a.json", b"1")
    publish(tmp_path / "deep" / "a.json", b"2")
    assert files(tmp_path / "deep") == {"a.json": b"2"}


def test_a_claim_is_anothers_until_it_is_released(tmp_path: Path) -> None:
    with Claims(tmp_path) as mine, Claims(tmp_path) as theirs:
        assert mine.take("a")
        assert not theirs.take("a")
        assert str(os.getpid()) in theirs.owner("a")
        mine.release("a")
        assert theirs.take("a")
    assert list(tmp_path.iterdir()) == []


def test_the_claim_of_a_dead_process_is_free(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from mrdist.data.claims import Claims
Claims(Path(sys.argv[1])).__enter__().take("a")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert (tmp_path / "a.claim").exists()
    with Claims(tmp_path) as claims:
        assert claims.take("a")


TAKE_AND_LEAVE = """
import os, sys
from pathlib import Path
from mrdist.data.claims import Claims
folder = Path(sys.argv[1])
claims, inside, turns = Claims(folder, silence=60), folder / "inside", 0
print("ready", flush=True)
sys.stdin.readline()
while turns < 100:
    if claims.take("a"):
        inside.touch(exist_ok=False)
        inside.unlink()
        turns += 1
        if turns % 2:
            os.utime(folder / "a.claim", (0, 0))  # abandoned
        else:
            claims.release("a")
"""


def test_of_many_who_take_an_abandoned_claim_at_once_one_gets_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKE_AND_LEAVE, str(tmp_path)]
    takers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for taker in takers:
        assert taker.stdout is not None
        taker.stdout.readline()
    for taker in takers:
        assert taker.stdin is not None
        taker.stdin.write("go\n")
        taker.stdin.flush()
    for taker in takers:
        taker.communicate()
    assert [taker.returncode for taker in takers] == [0, 0, 0]


def test_who_lost_a_claim_neither_renews_nor_releases_that_of_another(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    with Claims(tmp_path, silence=0.2) as mine, Claims(tmp_path, silence=3600) as theirs:
        mine.take("a")
        path.unlink()
        theirs.take("a")
        before = path.stat().st_mtime_ns
        time.sleep(0.1)
        assert path.stat().st_mtime_ns == before
        mine.release("a")
        assert path.exists()
    assert not path.exists()


def test_a_claim_from_elsewhere_ends_when_it_is_not_renewed(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    path.write_text(json.dumps({"host": "far", "space": "away", "pid": 1, "born": "1"}))
    with Claims(tmp_path, silence=60) as claims:
        assert not claims.take("a")
        os.utime(path, (time.time() - 61,) * 2)
        assert claims.take("a")


def test_who_gives_a_unit_to_one_process_at_a_time_frees_it_from_the_last_one(tmp_path: Path) -> None:
    with Claims(tmp_path, by="pools") as first, Claims(tmp_path, by="pools") as second, Claims(tmp_path) as other:
        assert first.take("a")
        assert not other.take("a")
        assert second.take("a")
        other.take("b")
        assert not second.take("b")


def test_living_claims_are_seen_without_taking_part(tmp_path: Path) -> None:
    assert held(tmp_path / "nothing") == []
    (tmp_path / "old.claim").write_text(json.dumps({"host": "far", "space": "away", "pid": 1, "born": "1"}))
    os.utime(tmp_path / "old.claim", (0, 0))
    with Claims(tmp_path) as claims:
        claims.take("a")
        assert held(tmp_path) == ["a"]
    assert held(tmp_path) == []


def test_a_living_claim_is_renewed(tmp_path: Path) -> None:
    path, silence, nap = tmp_path / "a.claim", 20.0, 0.1
    with Claims(tmp_path, silence=silence) as mine, Claims(tmp_path, silence=silence) as theirs:
        mine.take("a")
        os.utime(path, (0, 0))  # as if nobody had renewed it for ages
        naps = 0
        while path.stat().st_mtime == 0:
            time.sleep(nap)
            naps += 1  # counted, not measured: a machine that stands still lets nobody renew
            assert naps < silence / nap, "others would think that its owner is dead"
        assert not theirs.take("a")


def test_waiting_for_a_claim_has_a_deadline_that_names_its_owner(tmp_path: Path) -> None:
    with Claims(tmp_path) as mine, Claims(tmp_path) as theirs:
        mine.take("teacher")
        with pytest.raises(DataError, match=rf"teacher\.claim: got held by process {os.getpid()} on"), theirs.hold("teacher", within=0.3):
            pass
        mine.release("teacher")
        with theirs.hold("teacher", within=0.3):
            assert not mine.take("teacher")
        assert mine.take("teacher")


def test_a_worklist_hands_out_what_nobody_does_or_did(tmp_path: Path) -> None:
    shards = Shards(tmp_path)
    with Claims(tmp_path) as mine, Claims(tmp_path) as theirs:
        first, second = Worklist(range(3), shards, mine), Worklist(range(3), shards, theirs)
        assert (first.take(), second.take(), first.take()) == (0, 1, 2)
        assert first.take() is None
        shards.write(unit_name(0), arrays(0), {})
        first.done(0)
        assert second.take() is None
        second.done(1)  # given up, not done
        assert (len(first), first.take(), len(first)) == (1, 1, 0)
