"""Whether a run still moves, from stamps and steps whose clocks differ."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from mrdist.clock import TALK, WAIT
from mrdist_cluster.blame import waited_for
from mrdist_cluster.pulse import pulse
from mrdist_cluster.standing import Stamp

NOW = datetime(2026, 3, 2, 12, 0, 0).astimezone()


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def stamp(rank: int, place: str, *, step: int = 7, at: float = 2) -> Stamp:
    return Stamp(rank, step, place, 1.0, ago(at), ())


def steps(last: float, *, seconds: float = 2.0, count: int = 7) -> list[dict[str, Any]]:
    """The last one was taken `last` seconds ago."""
    times = [last + seconds * (count - 1 - number) for number in range(count)]
    return [{"step": 1 + number, "seconds": seconds, "time": ago(time).isoformat()} for number, time in enumerate(times)]


def test_a_rank_in_no_collective_is_the_one_the_others_wait_for() -> None:
    there = [stamp(0, "step > talk"), stamp(1, "step > talk"), stamp(2, "wait"), stamp(3, "step > talk")]
    found = pulse(steps(542), ago(9000), there, NOW)
    assert found is not None
    assert found.strange
    assert found.quiet == 540
    assert found.where == "rank 2 in wait, 3 others in step > talk"
    assert found.suspect == there[2]


def test_a_run_that_takes_its_steps_is_fine() -> None:
    found = pulse(steps(5), ago(9000), [stamp(0, "forward"), stamp(1, "wait")], NOW)
    assert found is not None
    assert (found.quiet, found.strange, found.begun) == (3, False, True)


def test_long_steps_may_take_long_and_short_ones_a_minute() -> None:
    there = [stamp(0, "talk"), stamp(1, "talk")]
    for seconds, last, strange in ((40, 150, False), (40, 250, True), (0.1, 50, False), (0.1, 70, True)):
        found = pulse(steps(last, seconds=seconds), ago(9000), there, NOW)
        assert found is not None
        assert found.strange is strange
        assert (found.suspect, found.where) == (None, "all 2 ranks in talk")


def test_an_evaluation_or_a_checkpoint_takes_its_time_but_not_for_ever() -> None:
    evaluating = [stamp(0, "evaluate"), stamp(1, "evaluate > talk")]
    assert [pulse(steps(last), ago(9000), evaluating, NOW).strange for last in (600, 3000)] == [False, True]  # type: ignore[union-attr]
    late = [stamp(0, "wait"), stamp(1, "save > talk")]
    assert pulse(steps(600), ago(9000), late, NOW).strange, "rank 0 does not save"  # type: ignore[union-attr]


def test_the_first_step_after_a_start_may_compile_and_steps_of_another_start_do_not_count() -> None:
    for begun, strange in ((200, False), (400, True)):
        found = pulse(steps(5000), ago(begun), [stamp(0, "forward"), stamp(1, "forward > talk")], NOW)
        assert found is not None
        assert (found.begun, found.strange, found.quiet) == (False, strange, begun - 2)


def test_the_clocks_of_other_nodes_and_of_the_reader_may_be_off() -> None:
    for off in (-20, 20):
        there = [stamp(0, "forward", at=2 + off), stamp(1, "forward", at=2)]
        found = pulse([{**step, "time": (datetime.fromisoformat(step["time"]) - timedelta(seconds=off)).isoformat()} for step in steps(5)],
                      ago(9000), there, NOW)  # fmt: skip
        assert found is not None
        assert (found.quiet, found.strange) == (3, False)


def test_ranks_that_all_stamp_no_more_stand_still_too() -> None:
    found = pulse(steps(502), ago(9000), [stamp(0, "save", at=500), stamp(1, "save", at=500)], NOW)
    assert found is not None
    assert found.quiet == 502


def test_nobody_there_says_nothing() -> None:
    assert pulse(steps(5), None, [stamp(0, "over")], NOW) is None


def test_the_places_that_ranks_name_are_those_that_are_understood() -> None:
    assert waited_for(WAIT, 7) < waited_for("step", 7) < waited_for("between places", 7) < waited_for(f"step > {TALK}", 7)
    assert waited_for("talk", 6) < waited_for("talk", 7)
