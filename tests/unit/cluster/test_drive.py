"""How many ranks start, how often they are started again, and when a driver gives up: without Ray."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mrdist.data.claims import Claims
from mrdist.errors import DataError, RanksError, RecipeError
from mrdist.prepare import prepare
from mrdist.recipe import load, to_yaml
from mrdist_cluster.attempts import Beside, insist, ranks_for
from mrdist_cluster.begin import alone, is_prepared, meant
from mrdist_cluster.drive import await_room, drive, saved
from mrdist_cluster.ranks import said_by
from mrdist_cluster.status import Follower, Heard
from tests.cluster.small import recipe
from tests.waiting import until

SMOKE = load("smoke")


def checkpoint(run: Path, step: int) -> None:
    folder = run / "steps" / f"{step:08d}"
    folder.mkdir(parents=True)
    (folder / "index.json").touch()


def driven(
    run: Path,
    train: Callable[[int], None],
    *,
    feed: Callable[[Callable[[], bool]], None] = lambda asked: None,
    fit: Callable[[], int] = lambda: 2,
    look: Callable[[int], bool] = lambda ranks: False,
) -> int:
    run.mkdir(exist_ok=True)
    return drive(run, SMOKE, fit=fit, train=train, feed=feed, fed=lambda: 0, look=look, every=0.1)


@pytest.mark.parametrize(
    ("batch", "room", "ranks"), [(128, 8, 8), (128, 7, 4), (58, 5, 2), (7, 6, 1), (3, 100, 3), (1024, 9, 8), (8, 0, 0)]
)
def test_the_most_ranks_that_share_a_batch_evenly_start(batch: int, room: int, ranks: int) -> None:
    assert ranks_for(batch, room) == ranks


def test_who_gets_on_between_deaths_is_begun_again_and_who_does_not_is_given_up() -> None:
    steps: list[int] = []

    def dies_once_per_step() -> None:
        steps.append(len(steps))
        if len(steps) < 10:
            raise OSError("killed")

    insist(dies_once_per_step, "it", got=lambda: len(steps), most=0, unless=lambda: False)
    assert len(steps) == 10

    def dies() -> None:
        steps.append(0)
        raise OSError("no memory")

    with pytest.raises(RanksError, match=r"3 ends in a row without getting past 7; the last one: no memory"):
        insist(dies, "it", got=lambda: 7, most=2, unless=lambda: False)
    assert len(steps) == 13


def test_what_the_user_can_mend_is_not_tried_again() -> None:
    tried: list[int] = []

    def refuses() -> None:
        tried.append(1)
        raise RecipeError(what="batch", got=7, wanted="8", try_="batch=8")

    with pytest.raises(RecipeError):
        insist(refuses, "it", got=lambda: 0, most=5, unless=lambda: False)
    assert len(tried) == 1


def test_a_rank_that_fell_because_it_was_to_end_is_not_begun_again() -> None:
    tried: list[int] = []

    def dies() -> None:
        tried.append(1)
        raise OSError

    insist(dies, "it", got=lambda: 0, most=5, unless=lambda: True)
    assert len(tried) == 1


def test_the_first_rank_that_knows_what_is_wrong_is_heard_not_those_it_left() -> None:
    wrong = DataError(what="part 3", got="damaged", wanted="whole", try_="mrdist prepare")
    assert said_by({0: RuntimeError("Connection closed by peer"), 1: wrong}) is wrong
    assert said_by({0: RuntimeError("Connection closed by peer")}) is None


def test_a_cluster_without_room_is_waited_for_and_then_named() -> None:
    rooms = iter([0, 3])
    assert await_room(lambda: next(rooms), within=60) == 3
    with pytest.raises(RanksError, match="no room for a rank"):
        await_room(lambda: 0, within=0)


def test_a_run_whose_ranks_die_is_driven_to_its_end(tmp_path: Path) -> None:
    begun: list[int] = []

    def train(ranks: int) -> None:
        begun.append(ranks)
        checkpoint(tmp_path, len(begun))
        if len(begun) < 3:
            raise OSError("killed")
        (tmp_path / "done").touch()

    assert driven(tmp_path, train) == 0
    assert begun == [2, 2, 2]
    assert saved(tmp_path) == 3


def test_a_signal_becomes_a_stop_file_again_and_again_until_the_ranks_end(tmp_path: Path) -> None:
    def train(ranks: int) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(2):  # ranks that only begin take the first one away
            until((tmp_path / "stop").exists, "the stop file", within=60)
            (tmp_path / "stop").unlink()

    before = signal.getsignal(signal.SIGUSR1)
    assert driven(tmp_path, train) == 75
    assert signal.getsignal(signal.SIGUSR1) is before


def test_ranks_end_and_start_again_at_once_when_there_is_room_for_more_and_it_pays(tmp_path: Path) -> None:
    begun: list[int] = []

    def train(ranks: int) -> None:
        begun.append(ranks)
        if ranks < 4:
            until((tmp_path / "regroup").exists, "the file", within=60)
        else:
            (tmp_path / "done").touch()

    assert driven(tmp_path, train, fit=lambda: 4 if begun else 2, look=lambda ranks: ranks < 4) == 0
    assert begun == [2, 4]
    assert not (tmp_path / "stop").exists()


def test_who_asks_for_the_end_gets_it_also_from_ranks_that_were_to_start_again(tmp_path: Path) -> None:
    begun: list[int] = []

    def train(ranks: int) -> None:
        begun.append(ranks)
        (tmp_path / "regroup").touch()
        (tmp_path / "stop").touch()

    assert driven(tmp_path, train) == 75
    assert begun == [2]


def test_ranks_that_have_taken_no_step_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrdist_cluster.drive.IDLE", 0.5)
    ended, waited_for = threading.Event(), list[bool]()

    def train(ranks: int) -> None:
        (tmp_path / "stop").touch()
        ended.wait(60)
        waited_for.append(True)

    fed: list[bool] = []

    def feed(over: Callable[[], bool]) -> None:
        until(over, "the end of the ranks", within=60)
        fed.append(True)

    assert driven(tmp_path, train, feed=feed) == 75
    assert fed == [True]
    assert not waited_for
    ended.set()


def test_a_pipeline_that_cannot_go_on_ends_the_driver(tmp_path: Path) -> None:
    ended = threading.Event()

    def feed(asked: Callable[[], bool]) -> None:
        raise DataError(what="chair.glb", got="nothing", wanted="a mesh", try_="look")

    def train(ranks: int) -> None:
        ended.wait(60)

    with pytest.raises(DataError, match=r"chair\.glb"):
        driven(tmp_path, train, feed=feed)
    ended.set()


def test_work_beside_us_hands_on_what_it_made_or_what_went_wrong() -> None:
    assert Beside(lambda: 3, "three").result() == 3
    with pytest.raises(ZeroDivisionError):
        Beside(lambda: 1 // 0, "none").result()


def test_the_same_words_mean_the_same_run_until_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    meaning, run = meant(["smoke", "steps=7"])
    assert meaning.live
    assert meaning.store == str(tmp_path / "store")
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(to_yaml(meaning))
    assert meant(["smoke", "steps=7"]) == (meaning, run)
    assert meant([str(run)])[1] == run
    assert meant(["smoke", "steps=8"])[1] != run
    (run / "done").touch()
    assert meant(["smoke", "steps=7"])[1] != run


def test_a_run_folder_in_a_jobs_copy_of_its_working_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(RecipeError, match="a folder that all nodes share"):
        meant(["smoke"])
    assert meant(["smoke", f"runs={tmp_path}/runs", f"store={tmp_path}/store"])[0].runs == f"{tmp_path}/runs"


def test_a_run_has_one_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hasty(Claims):
        """Claims that end as late as ever, and are not waited for as long."""

        def hold(self, name: str, *, within: float) -> AbstractContextManager[None]:
            assert within > self.silence, "what a dead driver left is taken over"
            return super().hold(name, within=within / 100)

    monkeypatch.setattr("mrdist_cluster.begin.Claims", Hasty)
    with alone(tmp_path / "run"):
        with pytest.raises(DataError, match="my turn"), alone(tmp_path / "run"):
            pass
        with alone(tmp_path / "other"):
            pass
    with alone(tmp_path / "run"):
        pass


def test_a_recipe_of_which_nothing_is_there_is_not_prepared_and_asking_makes_nothing(tmp_path: Path) -> None:
    assert not is_prepared(load("smoke", [f"store={tmp_path}/store"]))
    assert not (tmp_path / "store").exists()


def test_a_store_with_a_part_that_was_cut_is_not_prepared(tmp_path: Path) -> None:
    wanted = recipe(tmp_path)
    made = prepare(wanted)
    assert is_prepared(wanted)
    part = next(made.store.folder.glob("00000*.safetensors"))
    os.truncate(part, part.stat().st_size // 2)
    assert not is_prepared(wanted)


def test_a_line_tells_of_the_steps_since_the_last_one_also_after_a_restart(tmp_path: Path) -> None:
    follower = Follower(tmp_path, SMOKE)

    def take(steps: range, second: int) -> None:
        with (tmp_path / "metrics.jsonl").open("a") as file:
            for step in steps:
                line = {"step": step, "loss": 2.0, "seconds": 0.5, "wait": 0.1, "time": f"2026-01-01T00:00:{second:02d}.{step:03d}+00:00"}
                file.write(json.dumps(line) + "\n")

    assert follower.line() == ""
    take(range(1, 11), 1)
    assert follower.line() == "step 10/500   loss 2.000   256 shapes/s   wait 20%   left 4:05"
    assert follower.left == pytest.approx(0.8 * 245)
    assert follower.line() == ""
    (tmp_path / "metrics.jsonl").write_text("")
    take(range(5, 7), 2)
    assert follower.line().startswith("step 6/500")
    assert follower.step == 6


def test_steps_are_told_in_the_order_they_were_taken_whatever_the_clock_says(tmp_path: Path) -> None:
    file, lines = tmp_path / "metrics.jsonl", list[str]()

    def take(step: int, time: str) -> None:
        lines.append(json.dumps({"step": step, "loss": 2.0, "seconds": 0.5, "wait": 0.1, "time": time}) + "\n")
        file.write_text("".join(lines))

    take(1, "2026-10-25T02:59:59.000+02:00")
    follower = Follower(tmp_path, SMOKE)
    assert follower.step == 1
    take(2, "2026-10-25T02:00:01.000+01:00")  # summer time ends
    assert follower.line().startswith("step 2/500")
    take(3, "2026-10-24T12:00:00.000+00:00")  # somebody sets the clock
    assert follower.line().startswith("step 3/500")
    del lines[1:]  # back to a checkpoint
    take(2, "2026-10-24T12:00:09.000+00:00")
    assert follower.line().startswith("step 2/500")
    assert follower.line() == ""


def test_what_is_done_of_the_pipeline_is_not_told_any_more() -> None:
    heard = Heard()
    heard("render", 64, 640)
    heard("teacher", 1, 1)
    assert heard.line() == "render 64/640"
    assert heard.done == 65
