"""Who was first, from real paragraphs: `mrdist.training.why` writes what `mrdist_cluster.blame` reads."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from mrdist.clock import TALK
from mrdist.errors import DataError
from mrdist.ranks import Ranks
from mrdist.training import why
from mrdist_cluster.blame import first, witnesses
from mrdist_cluster.standing import Stamp

NOW = datetime(2026, 3, 2, 12, 0, 0).astimezone()
PEER = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [198.51.100.2]:4172\nIt may be gone.")


def stamp(rank: int, *, step: int = 7, place: str = "over", ago: float = 0) -> Stamp:
    return Stamp(rank, step, place, 0.0, NOW - timedelta(seconds=ago), ("solid-1",))


def failed(file: Path, rank: int, error: BaseException, *, step: int = 7, place: str = "step") -> None:
    ranks = Ranks(rank, 3)
    with ranks.clock.at(place):
        why.append(file, why.failure(error, ranks, step, ["solid-1", "solid-2"]))


def silent(file: Path, rank: int, place: str, *, step: int = 7) -> None:
    """As the watchdog writes it."""
    ranks = Ranks(rank, 3)
    with ranks.clock.at("step"), ranks.clock.at(place):
        why.append(file, f"silent for 600 s: {why.where(ranks, step, ['solid-1'])}{why.stacks()}try: look for the rank\n")


def test_a_rank_that_failed_by_itself_comes_before_those_that_heard_of_it(tmp_path: Path) -> None:
    file = tmp_path / "why.txt"
    failed(file, 0, PEER)
    failed(file, 2, DataError(what="072.safetensors", got="1.9 GB", wanted="2.1 GB", try_="mrdist prepare"))
    failed(file, 1, PEER)
    verdict = first(witnesses(file), [stamp(rank) for rank in range(3)], alive=False)
    assert verdict is not None
    assert (verdict.rank, verdict.step, verdict.place, verdict.shapes) == (2, 7, "step", "solid-1, solid-2")
    assert "072.safetensors" in verdict.error
    assert verdict.remedy == "mrdist prepare"
    assert "2 others wrote after it" in verdict.how


def test_a_rank_that_was_killed_wrote_nothing_and_is_found_by_its_stamp(tmp_path: Path) -> None:
    file = tmp_path / "why.txt"
    failed(file, 0, PEER)
    failed(file, 2, PEER)
    verdict = first(witnesses(file), [stamp(0), stamp(1, place="wait", ago=4, step=6), stamp(2)], alive=False)
    assert verdict is not None
    assert (verdict.rank, verdict.step, verdict.place) == (1, 6, "wait")
    assert "without a word" in verdict.how


def test_a_rank_that_was_killed_before_its_first_stamp_is_the_one_that_left_nothing(tmp_path: Path) -> None:
    file = tmp_path / "why.txt"
    failed(file, 0, PEER)
    failed(file, 2, PEER)
    verdict = first(witnesses(file), [stamp(0), stamp(2)], alive=False)
    assert verdict is not None
    assert verdict.rank == 1


def test_in_a_hang_the_rank_that_is_in_no_collective_is_the_one_they_wait_for(tmp_path: Path) -> None:
    file = tmp_path / "why.txt"
    silent(file, 0, TALK)
    silent(file, 1, "wait")
    silent(file, 2, TALK)
    verdict = first(witnesses(file), [stamp(rank, place="step > talk") for rank in range(3)], alive=True)
    assert verdict is not None
    assert (verdict.rank, verdict.place) == (1, "step > wait")
    assert "600 s" in verdict.how
    assert "test_blame.py" in verdict.text, "its stacks"


def test_a_rank_of_a_node_without_power_leaves_the_others_waiting_and_an_old_stamp(tmp_path: Path) -> None:
    file = tmp_path / "why.txt"
    silent(file, 0, TALK)
    verdict = first(witnesses(file), [stamp(0, place="talk"), stamp(1, place="talk", ago=500)], alive=True)
    assert verdict is not None
    assert verdict.rank == 1


@pytest.mark.parametrize("alive", [True, False])
def test_nobody_is_to_blame_where_nothing_is_wrong(tmp_path: Path, alive: bool) -> None:
    stamps = [stamp(0, place="step" if alive else "over"), stamp(1, place="wait" if alive else "over", ago=4)]
    assert first(witnesses(tmp_path / "why.txt"), stamps, alive=alive) is None
    assert first([], [], alive=alive) is None


def test_a_single_rank_that_lost_its_peers_is_better_than_no_answer(tmp_path: Path) -> None:
    file = tmp_path / "why.txt"
    failed(file, 0, PEER)
    verdict = first(witnesses(file), [stamp(rank) for rank in range(3)], alive=False)
    assert verdict is not None
    assert verdict.rank == 0
