"""Whatever a child does, its parent gets an answer, and the next child works."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrdist.data import sandbox as module
from mrdist.data.sandbox import Outcome, Sandbox
from mrdist.errors import DataError
from mrdist.recipe import Limits
from tests.hostile import LIMITS, expected, write_good, write_hostile
from tests.waiting import until

WORK = "tests.unit.data.misdeeds:work"


AMPLE = Limits(seconds=300, memory_mb=256)
"""Seconds that no deed needs, on a busy machine too."""


@pytest.fixture(scope="module")
def one() -> Iterator[Sandbox]:
    with Sandbox(WORK, AMPLE, warm="tests.unit.data.misdeeds:warm") as sandbox:
        yield sandbox


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def await_end(*pids: int) -> None:
    until(lambda: not any(alive(pid) for pid in pids), f"the end of {pids}")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def only_child(pid: int) -> int:
    until(lambda: children(pid), f"a child of {pid}")
    (child,) = children(pid)
    return child


def test_arrays_and_notes_arrive_as_they_were(one: Sandbox) -> None:
    began = time.monotonic()
    outcome = one.run({"deed": "arrays", "said": {"a": [1, None, "ä"]}})
    assert outcome.ok, outcome.reason
    assert 0 < outcome.seconds < time.monotonic() - began
    grid = np.arange(24, dtype=np.float64).reshape(4, 6)
    expected_arrays = {"turned": grid.T, "every other": grid[::2], "none": np.zeros((0, 3), np.float16), "truth": grid > 3}
    for name, array in expected_arrays.items():
        assert outcome.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(outcome.arrays[name], array)
    assert outcome.notes == {"said": {"a": [1, None, "ä"]}}


def test_a_child_has_the_same_surroundings_everywhere_and_limits_on_top_of_what_was_imported(one: Sandbox) -> None:
    notes = one.run({"deed": "surroundings"}).notes
    assert notes["environment"] == {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": ""}
    assert notes["limits"]["FSIZE"] == notes["limits"]["CORE"] == 0
    assert (notes["limits"]["CPU"], notes["limits"]["NOFILE"]) == (AMPLE.seconds + 1, 64)
    assert abs(notes["limits"]["AS"] - notes["already"] - (256 << 20)) < 8 << 20
    assert notes["warmed"] == [notes["zygote"]] == [one.pid]  # once, in the zygote
    assert notes["open"] < 10


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("crash", "crash SIGSEGV"),
        ("abort", "crash SIGABRT"),
        ("allocate", "MemoryError: .*"),
        ("grow", "MemoryError: "),
        ("recurse", "RecursionError: .*"),
        ("refuse", r"DataError: chair\.glb: got 0 faces, wanted at least 1 face\. Try: re-export the mesh"),
        ("leave", "exit status 7"),
        ("leave_quietly", "no result"),
        ("stop_politely", "SystemExit: enough"),
        ("litter", "OSError: .*File too large.*"),
        ("say_nothing_sensible", "TypeError: .*"),
        ("garble", "malformed result: .*"),
        ("cut_off", "a result cut off after 9 of 1000 bytes"),
        ("unheard_of", "KeyError: .*"),
    ],
)
def test_a_misdeed_has_a_reason_and_costs_one_request(one: Sandbox, tmp_path: Path, deed: str, reason: str) -> None:
    zygote = one.pid
    outcome = one.run({"deed": deed, "path": str(tmp_path / "litter")})
    assert not outcome.ok
    assert re.fullmatch(reason, outcome.reason), outcome.reason
    assert outcome.arrays == {}
    assert one.run({"deed": "arrays", "said": 1}).ok
    assert one.pid == zygote
    assert children(zygote) == []
    assert not (tmp_path / "litter").exists() or (tmp_path / "litter").stat().st_size == 0


@pytest.mark.parametrize("deed", ["spin", "sleep", "leave_a_child"])
def test_a_deed_without_an_end_is_ended_and_costs_one_request(deed: str) -> None:
    with Sandbox(WORK, Limits(seconds=1, memory_mb=256)) as sandbox:
        zygote = sandbox.pid
        outcome = sandbox.run({"deed": deed})
        assert outcome.reason == "timeout after 1 s"
        assert outcome.seconds >= 1
        assert children(zygote) == []
        # On a busy machine a second may be too short for anything; what is answered at last is the question that was asked last.
        for number in range(100):
            outcome = sandbox.run({"deed": "arrays", "said": number})
            if outcome.reason != "timeout after 1 s":
                break
        assert outcome.notes == {"said": number}
        assert sandbox.pid == zygote


def test_complaints_are_heard_and_cut_and_never_taken_for_an_answer(one: Sandbox) -> None:
    assert one.run({"deed": "shout"}).ok  # two megabytes of them
    outcome = one.run({"deed": "shout_and_crash"})
    assert outcome.reason == "crash SIGABRT"
    assert outcome.notes["stderr"].endswith("the last words")
    assert len(outcome.notes["stderr"]) <= 4096


def test_a_zygote_that_dies_is_replaced() -> None:
    with Sandbox(WORK, AMPLE) as sandbox:
        first = sandbox.pid
        os.kill(first, signal.SIGKILL)
        assert sandbox.run({"deed": "arrays", "said": 1}).ok
        second = sandbox.pid
        assert second != first
        outcome = sandbox.run({"deed": "kill_the_zygote"})
        assert not outcome.ok
        assert outcome.reason == "the process that children are forked from died twice"
        assert sandbox.run({"deed": "arrays", "said": 1}).ok
        last = sandbox.pid
    await_end(first, second, last)


def test_an_interrupted_request_does_not_answer_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(WORK, AMPLE) as sandbox:
        receive = module.receive

        def interrupted(fd: int, deadline: float) -> dict[str, Any]:
            monkeypatch.setattr(module, "receive", receive)
            raise KeyboardInterrupt

        monkeypatch.setattr(module, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sandbox.run({"deed": "arrays", "said": "first"})
        assert sandbox.run({"deed": "arrays", "said": "second"}).notes == {"said": "second"}


def test_it_can_be_closed_while_somebody_waits() -> None:
    sandbox = Sandbox(WORK, AMPLE)
    zygote, raised = sandbox.pid, list[BaseException]()

    def wait() -> None:
        try:
            sandbox.run({"deed": "sleep"})
        except DataError as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    child = only_child(zygote)
    sandbox.close()
    thread.join()
    assert len(raised) == 1, "the request had its whole time, and an outcome"
    await_end(zygote, child)
    with pytest.raises(DataError, match="close"):
        sandbox.run({"deed": "arrays", "said": 1})


def test_nothing_is_left_behind_when_the_parent_is_killed() -> None:
    # A sibling inherits the pipes, so their end alone tells nothing; and one child is at work.
    script = f"""
        import os, sys, time
        from mrdist.data.sandbox import Sandbox
        from mrdist.recipe import Limits
        sandbox = Sandbox({WORK!r}, {AMPLE!r})
        idle = Sandbox({WORK!r}, {AMPLE!r})
        sibling = os.fork()
        if sibling == 0:
            time.sleep(1000)
        sys.stdout.write(f"{{sandbox.pid}} {{idle.pid}} {{sibling}}\\n")
        sys.stdout.flush()
        sandbox.run({{"deed": "sleep"}})
    """
    root = Path(__file__).resolve().parents[3]
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, cwd=root)
    assert parent.stdout is not None
    zygote, idle, sibling = (int(word) for word in parent.stdout.readline().split())
    try:
        child = only_child(zygote)
        parent.kill()
        parent.wait()
        await_end(zygote, idle, child)
    finally:
        os.kill(sibling, signal.SIGKILL)
        parent.stdout.close()


@pytest.mark.parametrize(
    ("work", "warm", "reason"),
    [
        ("tests.unit.data.nowhere:work", None, "ModuleNotFoundError"),
        ("tests.unit.data.misdeeds:nothing", None, "nothing"),
        (WORK, "tests.unit.data.misdeeds:fail_to_warm", "no kernel compiles here"),
        (WORK, "tests.unit.data.misdeeds:start_a_thread", "2 threads"),
    ],
)
def test_what_cannot_be_imported_is_said_at_once(work: str, warm: str | None, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Sandbox(work, Limits(), warm=warm)


def test_hostile_meshes_are_refused_by_name_and_the_good_ones_between_them_arrive(tmp_path: Path) -> None:
    folder = tmp_path / "meshes"
    bad = write_hostile(folder)
    good = [folder / f"good-{k}.glb" for k in range(len(bad) // 3)]
    for k, path in enumerate(good):
        write_good(path, k)
    assert len(bad) >= 60
    order = bad.copy()
    for k, path in enumerate(good):
        order.insert(4 * k, path)
    outcomes: dict[Path, Outcome] = {}
    with Sandbox("tests.hostile:read", LIMITS, warm="mrdist.data.readers:warm") as sandbox:
        zygote = sandbox.pid
        for path in order:
            outcomes[path] = sandbox.run({"path": str(path), "root": str(folder)})
        assert sandbox.pid == zygote
    for path in good:
        assert outcomes[path].ok, outcomes[path].reason
        assert len(outcomes[path].arrays["faces"]) == 12
    for path in bad:
        assert not outcomes[path].ok, path
        assert outcomes[path].reason.startswith("DataError: "), outcomes[path].reason
        assert path.name in outcomes[path].reason
        assert expected(path).search(outcomes[path].reason), outcomes[path].reason
        assert outcomes[path].seconds < LIMITS.seconds
