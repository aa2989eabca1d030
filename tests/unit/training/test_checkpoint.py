"""A checkpoint is there in full, or not at all."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch

from mrdist.errors import CheckpointError
from mrdist.ranks import Ranks
from mrdist.testing import on_ranks
from mrdist.training import checkpoint
from mrdist.training.checkpoint import Stored, complete, opened, write

ALONE = Ranks.alone()
STATE = {"weights/a": torch.randn(4, 5), "weights/b": torch.zeros(1), "exp_avg/a": torch.full((4, 5), -0.0)}
FACTS = {"step": 3, "best": None, "exported": "", "recipe": {}}


def written(folder, state=STATE):
    write(folder, state.items(), {"dice": torch.arange(3)}, FACTS, ALONE)
    return folder


def test_what_is_read_is_what_was_written(tmp_path):
    stored = opened(written(tmp_path / "00000003"), ALONE)
    assert all(torch.equal(stored[name], tensor) for name, tensor in STATE.items())
    assert torch.equal(stored.own(ALONE)["dice"], torch.arange(3))
    assert stored.facts["step"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["00000003"]


def test_another_number_of_ranks_gets_no_random_states(tmp_path):
    stored = opened(written(tmp_path / "00000003"), ALONE)
    assert stored.own(Ranks(0, 2)) == {}


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "index", "format", "empty index"])
def test_damage_of_any_kind_is_seen(tmp_path, damage):
    folder = written(tmp_path / "00000003")
    file = folder / "rank-0000.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    if damage == "flip":
        held = bytearray(file.read_bytes())
        held[-3] ^= 1
        file.write_bytes(held)
    if damage == "gone":
        file.unlink()
    if damage == "index":
        (folder / "index.json").write_text('{"format": 1, "files": [{"na')
    if damage == "format":
        index = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps({**index, "format": 99}))
    if damage == "empty index":
        (folder / "index.json").write_text("[]")
    with pytest.raises(CheckpointError):
        opened(folder, ALONE)


def test_an_index_cannot_name_files_outside_its_folder(tmp_path):
    secret = tmp_path / "secret.safetensors"
    folder = written(tmp_path / "00000003")
    (folder / "rank-0000.safetensors").rename(secret)
    index = json.loads((folder / "index.json").read_text())
    index["files"][0]["name"] = "../secret.safetensors"
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError):
        opened(folder, ALONE)


def test_a_foreign_checkpoint_is_refused_with_the_names_that_do_not_fit(tmp_path):
    stored = Stored(written(tmp_path / "00000003"))
    stored.check({name: tuple(tensor.shape) for name, tensor in STATE.items()})
    for wanted, said in (
        ({"weights/a": (4, 5), "weights/b": (1,), "exp_avg/a": (4, 5), "weights/c": (2,)}, "without weights/c"),
        ({"weights/a": (4, 5), "exp_avg/a": (4, 5)}, "with strange weights/b"),
        ({"weights/a": (5, 4), "weights/b": (1,), "exp_avg/a": (4, 5)}, r"weights/a \[4, 5\] not \[5, 4\]"),
    ):
        with pytest.raises(CheckpointError, match=said):
            stored.check(wanted)


def test_a_full_disk_leaves_the_old_one_and_nothing_of_the_new(tmp_path):
    written(tmp_path / "00000003")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError, match="free some space"):
            written(tmp_path / "00000004", {"weights/large": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["00000003"]
    opened(tmp_path / "00000003", ALONE)


def refused(ranks, folder):
    try:
        write(Path(folder), STATE.items(), {}, FACTS, ranks)
    except CheckpointError as wrong:
        return str(wrong)


def test_a_folder_that_cannot_be_made_is_an_error_on_every_rank(tmp_path):
    (tmp_path / "steps").touch()
    first, second = on_ranks(2, refused, str(tmp_path / "steps" / "00000003"))
    assert first == second
    assert "rank 0: " in first
    assert "Try: free some space" in first


def test_the_newest_complete_one_comes_first(tmp_path):
    for step in (3, 10, 200):
        written(tmp_path / f"{step:08d}")
    checkpoint.remove(tmp_path / "00000200")
    (tmp_path / "00000300").mkdir()
    assert [p.name for p in complete(tmp_path)] == ["00000010", "00000003"]
    checkpoint.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000003", "00000010"]


def test_the_averaged_student_is_preferred_and_buffers_come_along(tmp_path):
    one = torch.ones(1)
    state = {"weights/student.a": torch.zeros(2), "weights/head": torch.zeros(3), "buffers/student.n": one, "buffers/other": one}
    write(tmp_path / "00000001", state.items(), {}, {**FACTS, "exported": "student."}, ALONE)
    write(tmp_path / "00000002", {**state, "average/a": torch.ones(2)}.items(), {}, {**FACTS, "exported": "student."}, ALONE)
    plain, averaged = (Stored(tmp_path / name).student() for name in ("00000001", "00000002"))
    assert plain.keys() == averaged.keys() == {"a", "n"}
    assert float(plain["a"][0]) == 0.0
    assert float(averaged["a"][0]) == 1.0


def test_a_run_folder_stands_for_its_best_checkpoint_or_its_newest(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint.find(tmp_path)
    first, second = (written(tmp_path / "steps" / name) for name in ("00000001", "00000002"))
    assert checkpoint.find(tmp_path) == second
    checkpoint.point(tmp_path / "best", first)
    assert checkpoint.find(tmp_path) == first.resolve()
    assert checkpoint.find(second) == second
