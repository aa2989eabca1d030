"""Pools of renderers and teachers make what one process makes, whoever dies or joins meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import pytest

from mrdist.data.catalog import Catalog
from mrdist.data.claims import held
from mrdist.data.shards import unit_name
from mrdist.data.sources.folder import FolderConfig
from mrdist.data.synthetic import SyntheticConfig
from mrdist.errors import DataError
from mrdist.prepare import Prepared, open_prepared, prepare
from mrdist.prepare.units import announce, finished, open_teacher
from mrdist.prepare.work import Work
from mrdist.recipe import Recipe
from mrdist.shapes import Shape
from mrdist.teachers.fit import FittedConfig
from mrdist_cluster import pools
from mrdist_cluster.book import Node, Share, plan
from mrdist_cluster.figures import Figures
from mrdist_cluster.pipeline import run_pipeline
from mrdist_cluster.settings import fill
from tests import hostile
from tests.cluster.armed import Armed
from tests.cluster.killer import DEADLY, parent
from tests.cluster.small import ColoursConfig, files, recipe
from tests.waiting import LATE, until

BOTH = "render and embed"


def share(recipe: Recipe, cores: int = 2) -> Share:
    return plan(recipe, [Node("here", cores)], training=False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """What one process makes, without Ray."""
    return prepare(recipe(tmp_path_factory.mktemp("alone")))


def assert_same(made: Recipe, reference: Prepared) -> None:
    here = open_prepared(made)
    for mine, other in ((here.renders.folder, reference.renders.folder), (here.store.folder, reference.store.folder)):
        assert files(mine) == files(other)
    assert not [*Path(made.store).rglob("*.claim"), *Path(made.store).rglob("*.trial")]


def ours(pid: int) -> bool:
    """Whether a process descends from this one."""
    while pid > 1 and pid != os.getpid():
        pid = parent(pid)
    return pid == os.getpid()


def claims(folder: Path) -> dict[Path, int]:
    """The claims in a folder of processes that descend from this one, and whose they are."""
    found = {}
    for claim in folder.glob("*.claim"):
        try:
            pid = int(json.loads(claim.read_bytes())["pid"])
        except (OSError, ValueError):
            continue
        if ours(pid):
            found[claim] = pid
    return found


def stands_still(pid: int) -> bool:
    """Whether all threads of a process have stopped.

    Raises:
        OSError: it has ended.
    """
    states = {(task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()}
    if "Z" in states:
        raise ProcessLookupError
    return states == {"T"}


def caught(folder: Path) -> int:
    """A process that is at work on a unit in a folder, stopped before that is written."""
    found: list[int] = []

    def stops() -> bool:
        for claim, pid in claims(folder).items():
            with suppress(OSError):  # it ended by itself
                os.kill(pid, signal.SIGSTOP)
                until(partial(stands_still, pid), f"{pid} stops")
                if claim.exists() and not claim.with_suffix(".json").exists():
                    found.append(pid)
                    return True
                os.kill(pid, signal.SIGCONT)  # it was too fast: the next unit, then
        return False

    until(stops, f"somebody who works in {folder}")
    return found[0]


class Running:
    """A pipeline in a thread, as the driver of a training job has it."""

    def __init__(self, recipe: Recipe, **given: object) -> None:
        self.figures: dict[str, Figures] = {}
        self.told: list[tuple[str, int, int]] = []
        self._wrong: BaseException | None = None
        self._work: Callable[[], dict[str, Figures]] = lambda: run_pipeline(
            recipe,
            share(recipe),
            lambda *said: self.told.append(said),
            **given,  # type: ignore[arg-type]
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.figures = self._work()
        except BaseException as wrong:
            self._wrong = wrong

    def done(self) -> dict[str, Figures]:
        self._thread.join(2 * LATE)
        assert not self._thread.is_alive()
        if self._wrong is not None:
            raise self._wrong
        return self.figures


def test_the_pools_make_the_same_bytes_as_one_process(cluster: str, alone: Prepared, tmp_path: Path) -> None:
    mine = recipe(tmp_path)
    running = Running(mine)
    (figures,) = running.done().values()
    assert_same(mine, alone)
    shapes = len(alone.catalog)
    assert (figures.shapes, figures.views, figures.units) == (shapes, 4 * shapes, alone.renders.units)
    assert list(dict.fromkeys(stage for stage, _, _ in running.told)) == ["make shapes", BOTH]
    assert running.told[-1] == (BOTH, shapes, shapes)
    assert figures.fullest.has > 0
    assert figures.fullest.spilled == 0
    assert min(figures.rendering, figures.teaching) > 0


def test_where_nothing_is_missing_ray_is_not_even_imported(alone: Prepared) -> None:
    code = f"""
import sys
from pathlib import Path
from mrdist_cluster.book import Node, plan
from mrdist_cluster.pipeline import run_pipeline
from mrdist_cluster.settings import fill
from tests.cluster.small import recipe
mine = recipe(Path({str(alone.store.folder.parents[1])!r}))
assert run_pipeline(mine, plan(mine, [Node("here", 2)], training=False)) == {{}}
assert "ray" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_killed_renderer_and_a_killed_teacher_lose_and_repeat_nothing(cluster: str, alone: Prepared, tmp_path: Path) -> None:
    mine = recipe(tmp_path, teacher=ColoursConfig(seconds=1))
    running = Running(mine)
    renders = tmp_path / "renders" / alone.renders.folder.name
    renderer = caught(renders)
    os.kill(renderer, signal.SIGKILL)
    teacher = caught(tmp_path / "triplets" / alone.store.folder.name)
    assert teacher != renderer
    os.kill(teacher, signal.SIGKILL)
    figures = running.done()[BOTH]
    assert_same(mine, alone)
    assert (figures.units, figures.shapes) == (alone.renders.units, len(alone.catalog))


OTHER = """
import json, sys
from pathlib import Path
from mrdist_cluster.book import Node, plan
from mrdist_cluster.pipeline import run_pipeline
from mrdist_cluster.settings import fill
from mrdist_cluster.settings import joined
from mrdist.recipe import Pools
from tests.cluster.small import recipe
mine = recipe(Path(sys.argv[1]), pools=Pools(renderers=(1, 1), teachers=(1, 1)))
with joined():
    made = run_pipeline(mine, plan(mine, [Node("here", 2)], training=False))
print(json.dumps({stage: figures.plain() for stage, figures in made.items()}))
"""


def test_two_pipelines_on_one_store_share_the_work(cluster: str, alone: Prepared, tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], env={**os.environ, "RAY_ADDRESS": cluster}, stdout=subprocess.PIPE, text=True
    )
    renders = tmp_path / "renders" / alone.renders.folder.name
    theirs_first = caught(renders)  # their only renderer, with a unit in its hands: all others are left to mine

    def the_others_are_drawn() -> bool:
        for claim, pid in claims(renders).items():
            if pid == theirs_first:
                os.utime(claim)  # as it would itself, did it not stand still: it may do so for longer than a claim lasts
        return len(list(renders.glob("0*.safetensors"))) >= alone.renders.units - 1

    mine = recipe(tmp_path)
    running = Running(mine)
    until(the_others_are_drawn, "the units that are left")
    os.kill(theirs_first, signal.SIGCONT)
    figures = running.done()[BOTH]
    said, _ = other.communicate(timeout=LATE)
    assert other.returncode == 0
    theirs = json.loads(said)[BOTH]
    assert figures.views > 0
    assert theirs["views"] > 0
    assert figures.views + theirs["views"] == 4 * len(alone.catalog)  # no shape was drawn twice
    assert_same(mine, alone)


@pytest.mark.drill
def test_what_is_missing_or_damaged_is_made_again_and_nothing_else(cluster: str, alone: Prepared, tmp_path: Path) -> None:
    mine = recipe(tmp_path)
    prepare(mine)
    here = open_prepared(mine)
    (cut,) = here.store.folder.glob("00001-*.safetensors")
    os.truncate(cut, 50)
    (rotten,) = here.renders.folder.glob("00002-*.safetensors")
    held = bytearray(rotten.read_bytes())
    held[-1] ^= 1
    rotten.write_bytes(held)
    (here.store.folder / f"{unit_name(2)}.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in here.renders.folder.glob("0*.safetensors") if path != rotten}
    figures = Running(mine).done()
    assert_same(mine, alone)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {stage: held.views for stage, held in figures.items()} == {"embed": 0, BOTH: 4 * 64}


@pytest.mark.drill
def test_a_teacher_that_learns_sees_all_views_first(cluster: str, tmp_path: Path) -> None:
    teacher = FittedConfig(pixels=32, width=32, channels=8, text_width=32, text_layers=1, steps=3, batch=8)
    here, there = (recipe(tmp_path / name, teacher=teacher) for name in ("pools", "alone"))
    running = Running(here)
    assert list(running.done()) == ["render", "embed"]
    assert list(dict.fromkeys(stage for stage, _, _ in running.told)) == ["make shapes", "render", "embed"]
    assert_same(here, one_threaded(there))


def one_threaded(recipe: Recipe) -> Prepared:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as an actor of one core: a fit on two adds up in another order
    try:
        return prepare(recipe)
    finally:
        torch.set_num_threads(threads)


def test_an_error_of_an_actor_is_said_in_its_own_words(cluster: str, alone: Prepared, tmp_path: Path) -> None:
    (tmp_path / "triplets" / alone.store.folder.name / f"{unit_name(1)}.json").mkdir(parents=True)
    with pytest.raises(DataError, match=r"00001\.json: got Is a directory"):
        Running(recipe(tmp_path)).done()
    # Ray ends the others a moment later, some of them at work: what counts is that nobody holds a claim then.
    until(lambda: not any(held(claim.parent) for claim in tmp_path.rglob("*.claim")), "the end of all claims")


def poisoned(folder: Path, *, good: int, copies: int) -> tuple[Recipe, dict[str, Path]]:
    """A recipe of `good` meshes and of some, by name, that nobody should have to read."""
    root = folder / "meshes"
    bad = {path.name: path for path in hostile.write_hostile(root, copies) if re.match(r"\d+-", path.name)} if copies else {}
    root.mkdir(exist_ok=True)
    fine = [root / f"good-{k:04d}.glb" for k in range(good)]
    for k, path in enumerate(fine):
        hostile.write_good(path, k)
    shapes = [Shape(path.name, path, captions=(f"thing {path.stem}",)) for path in (*fine, *bad.values())]
    Catalog.write(root / "manifest.jsonl", shapes)
    data = FolderConfig(path=str(root / "manifest.jsonl"), val=0, test=0.1)
    return recipe(folder / "store", data=data, limits=hostile.LIMITS), bad


@pytest.mark.drill
def test_a_thousand_shapes_of_which_one_in_twenty_is_poison(cluster: str, tmp_path: Path) -> None:
    mine, bad = poisoned(tmp_path, good=950, copies=1)
    figures = Running(mine).done()[BOTH]
    made = open_prepared(mine)
    assert {one["mesh"] for one in made.skipped} == set(bad)
    assert len(bad) >= 50
    for one in made.skipped:
        assert hostile.expected(bad[one["mesh"]]).search(one["reason"]), one
    assert len(made.store) == figures.shapes == 950
    assert figures.skipped == len(bad)
    print(figures.line())


@pytest.mark.drill
def test_views_are_redrawn_one_round_ahead_of_training(cluster: str, tmp_path: Path) -> None:
    few = SyntheticConfig(train=1, val=0, test=1, unseen=1)
    here, there = (recipe(tmp_path / name, data=few, batch=8, redraw=2, steps=1) for name in ("pools", "alone"))
    epoch = len(prepare(there).store.indices("train")) // 8
    here, there = (replace(one, steps=5 * epoch) for one in (here, there))  # epochs 0 to 4: three rounds
    prepare(there)
    step = 2 * epoch - 1
    running = Running(here, step=lambda: step)
    rounds = [Work.open(here).round(number) for number in range(3)]
    until(lambda: finished(rounds[1].renders) and finished(rounds[1].triplets("colours12")), "round 1")
    time.sleep(3)
    assert not rounds[2].renders.exists()
    step += 1  # epoch 2, the first of round 1
    running.done()
    for round, other in zip(rounds, (Work.open(there).round(number) for number in range(3)), strict=True):
        assert files(round.renders) == files(other.renders)
        assert files(round.triplets("colours12")) == files(other.triplets("colours12"))


@pytest.mark.drill
def test_what_waits_for_a_slow_teacher_is_bounded_and_never_spilled(cluster: str, tmp_path: Path) -> None:
    mine, _ = poisoned(tmp_path, good=1024, copies=0)
    mine = replace(mine, points=20_000, teacher=ColoursConfig(seconds=6), pools=replace(mine.pools, ahead=1))
    work = Work.open(mine)
    round = work.round()
    announce(round, open_teacher(round))
    units = {number: work.units[number] for number in work.order}
    reports = list(pools.Pools(share(mine, 3), "p").run(round, round, units, draw=True, teach=True))
    assert [report.unit for report in reports] == work.order
    changes = sorted([(report.made, 1) for report in reports] + [(report.taken, -1) for report in reports])
    assert max(accumulate(change for _, change in changes)) <= pools.SLACK * (1 + 2)  # of 16 units
    assert fill().spilled == 0


@pytest.mark.drill
def test_a_shape_that_kills_its_renderer_is_kept_out_by_name(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, _ = poisoned(tmp_path, good=149, copies=0)
    root = tmp_path / "meshes"
    hostile.write_good(root / DEADLY, 0)
    manifest = root / "manifest.jsonl"
    Catalog.write(manifest, [*Catalog.open(manifest).shapes, Shape(DEADLY, root / DEADLY)])
    monkeypatch.setattr(pools, "RenderActor", Armed)
    began = time.monotonic()
    figures = Running(mine).done()[BOTH]
    (skipped,) = open_prepared(mine).skipped
    assert (skipped["id"], figures.skipped) == (DEADLY, 1)
    assert re.search(r"killed its renderer: that died 4 times .* alone with this shape", skipped["reason"])  # 1 + retries, and alone
    assert len(open_prepared(mine).store) == figures.shapes == 149
    assert not list(Path(mine.store).rglob("*.trial"))
    print(f"{time.monotonic() - began:.0f} s; {figures.line()}")
