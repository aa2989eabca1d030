"""Ranks that Ray starts train what torchrun's train, whoever dies meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.conftest import RECIPE, ROOT

drill = pytest.mark.drill

STEPS, SHAPES, BATCH = 60, 116, 58
TRAIN = [sys.executable, "-m", "mrdist_cluster", "train"]
LATE = 600.0  # seconds; far beyond what anything takes, on a busy machine too


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe that trains in seconds on ZeRO-3, and nothing prepared."""
    lab = tmp_path_factory.mktemp("lab")
    recipe = RECIPE.replace("steps: 160", f"steps: {STEPS}\nengine: zero3").replace("save_every: 40", "save_every: 20")
    (lab / "drill.yaml").write_text(recipe)
    return lab


@pytest.fixture(scope="module")
def torchrun(lab: Path) -> Path:
    """The run of two ranks that torchrun started, on a store that was prepared before."""
    words = ["--nproc-per-node=2", "--no-python", sys.executable, "-m", "mrdist", "train", "drill.yaml", "runs=torchrun", "store=prepared"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words]
    subprocess.run(command, cwd=lab, env=environment(), check=True, timeout=LATE, capture_output=True)
    (run,) = (lab / "torchrun").iterdir()
    return run


class Driver:
    """A driver at work in a laboratory; what it says is kept."""

    def __init__(self, lab: Path, *words: str, **more: str) -> None:
        self.said = lab / f"driver-{len(list(lab.glob('driver-*')))}.log"
        self.process = subprocess.Popen(
            [*TRAIN, "drill.yaml", *words], cwd=lab, env=environment(**more), stdout=self.said.open("w"), stderr=subprocess.STDOUT
        )

    def ends(self) -> int:
        return self.process.wait(timeout=LATE)


@pytest.fixture
def drive(lab: Path) -> Iterator[Callable[..., Driver]]:
    """Starts drivers; those that still live at the end of a test die."""
    begun: list[Driver] = []

    def start(*words: str, **more: str) -> Driver:
        begun.append(Driver(lab, *words, **more))
        return begun[-1]

    yield start
    for driver in begun:
        driver.process.kill()
        driver.process.wait()


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LATE
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.1)


def steps(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.is_file() else []
    return [json.loads(line) for line in lines]


def the_run(runs: Path) -> Path:
    """The only run in a folder."""
    (run,) = (folder for folder in runs.iterdir() if folder.is_dir())
    return run


def reaches(runs: Path, step: int) -> Path:
    until(lambda: any(len(steps(run)) >= step for run in runs.glob("*/")), f"step {step} in {runs}")
    return the_run(runs)


def pid_of(run: Path, rank: int) -> int:
    """The process of a rank: who has its log open."""
    log = (run / "ranks" / f"{rank:04d}.log").resolve()
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and (process / "fd" / "1").resolve() == log:
                return int(process.name)
        except OSError:
            continue
    raise AssertionError(f"nobody speaks into {log}")


def curve(run: Path) -> list[tuple[Any, ...]]:
    return [tuple(step[name] for name in ("step", "loss", "terms", "gradient_norm", "shapes")) for step in steps(run)]


def assert_every_shape_is_trained_once_per_epoch(run: Path, count: int = STEPS) -> None:
    taken = steps(run)
    assert [step["step"] for step in taken] == list(range(1, count + 1))
    for first in range(0, count, SHAPES // BATCH):
        trained = Counter(shape for step in taken[first : first + SHAPES // BATCH] for shape in step["shapes"])
        assert len(trained) == SHAPES
        assert set(trained.values()) == {1}
    times = [datetime.fromisoformat(step["time"]).timestamp() for step in taken]
    print(f"between two steps at most {max(after - before for before, after in pairwise(times)):.0f} s")


def test_from_meshes_to_figures_through_the_death_of_a_rank_as_if_torchrun_had_trained_on_a_prepared_store(
    cluster: str, lab: Path, torchrun: Path, drive: Callable[..., Driver]
) -> None:
    driver = drive("runs=live", "store=live-store", RAY_ADDRESS=cluster)
    run = reaches(lab / "live", 25)
    os.kill(pid_of(run, 1), signal.SIGKILL)
    assert driver.ends() == 0, driver.said.read_text()
    assert "training fell at" in driver.said.read_text()
    assert "Zero-shot classification" in driver.said.read_text()
    assert_every_shape_is_trained_once_per_epoch(run)
    assert curve(run) == curve(torchrun)


@drill
def test_a_driver_is_killed_and_the_next_one_stopped_and_the_same_command_goes_on_each_time(
    cluster: str, lab: Path, torchrun: Path, drive: Callable[..., Driver]
) -> None:
    words = ("runs=twice", "store=prepared")
    first = drive(*words, RAY_ADDRESS=cluster)
    run = reaches(lab / "twice", 25)
    first.process.kill()
    second = drive(*words, RAY_ADDRESS=cluster)
    until(lambda: len((run / "command.txt").read_text().splitlines()) > 3, "the second start of the ranks")
    until(lambda: len(steps(run)) > 20, "a step")
    second.process.send_signal(signal.SIGUSR1)
    assert second.ends() == 75, second.said.read_text()
    assert not (run / "done").exists()
    third = drive(*words, RAY_ADDRESS=cluster)
    assert third.ends() == 0, third.said.read_text()
    assert the_run(lab / "twice") == run
    assert_every_shape_is_trained_once_per_epoch(run)
    assert curve(run) == curve(torchrun)


def test_what_a_rank_says_is_wrong_is_said_once_and_not_tried_again(cluster: str, torchrun: Path, drive: Callable[..., Driver]) -> None:
    driver = drive("runs=wrong", "store=prepared", "optim.lr=1e30", "optim.clip=0", "optim.warmup=0", RAY_ADDRESS=cluster)
    assert driver.ends() == 1
    said = driver.said.read_text()
    assert said.count("finite numbers") == 1
    assert "Traceback" not in said
    assert "fell" not in said


def test_what_does_not_fit_is_refused_before_anything_starts(cluster: str, lab: Path, drive: Callable[..., Driver]) -> None:
    driver = drive("runs=none", "store=none", "pools.renderers=[40,64]", RAY_ADDRESS=cluster)
    assert driver.ends() == 1
    assert "wanted 42 cores: teach 1 + render 40 + train 1" in driver.said.read_text()
    assert not (lab / "none").exists()


@drill
def test_when_a_node_leaves_fewer_ranks_go_on_and_a_node_that_joins_is_used_by_the_next_start(
    lab: Path, torchrun: Path, drive: Callable[..., Driver]
) -> None:
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20})
    other = nodes.add_node(num_cpus=1, object_store_memory=100 << 20)
    try:
        driver = drive("runs=elastic", "store=prepared", RAY_ADDRESS=nodes.address)
        run = reaches(lab / "elastic", 25)
        assert "on 2 ranks" in (run / "ranks" / "0000.log").read_text()
        nodes.remove_node(other, allow_graceful=False)
        began = time.monotonic()
        until(lambda: "on 1 ranks" in (run / "ranks" / "0000.log").read_text(), "one rank")
        print(f"one rank goes on {time.monotonic() - began:.0f} s after the power-off of a node")
        nodes.add_node(num_cpus=1, object_store_memory=100 << 20)
        assert driver.ends() == 0, driver.said.read_text()
        assert_every_shape_is_trained_once_per_epoch(run)
        assert [step["shapes"] for step in steps(run)] == [step["shapes"] for step in steps(torchrun)]
        assert [step["loss"] for step in steps(run)] == pytest.approx([step["loss"] for step in steps(torchrun)], rel=1e-2)
    finally:
        nodes.shutdown()


@drill
def test_once_all_is_prepared_ranks_start_again_with_the_places_of_renderers_and_teachers(
    cluster: str, lab: Path, drive: Callable[..., Driver]
) -> None:
    # Of six cores: one rank beside a renderer and a teacher, then two. Long enough for the driver to look, every ten seconds.
    words = ("pools.trainer_cores=3", "pools.regroup=0", "steps=400")
    driver = drive("runs=grown", "store=grown-store", *words, RAY_ADDRESS=cluster)
    assert driver.ends() == 0, driver.said.read_text()
    run = the_run(lab / "grown")
    said = (run / "ranks" / "0000.log").read_text()
    assert said.index("on 1 ranks") < said.index("on 2 ranks")
    assert "room for 2 ranks by now: all start again" in driver.said.read_text()
    assert "fell at" not in driver.said.read_text()
    assert_every_shape_is_trained_once_per_epoch(run, 400)


@drill
def test_a_job_on_two_nodes_that_have_only_what_it_brings_along_trains_as_torchrun(lab: Path, torchrun: Path) -> None:
    job = lab / "job"
    job.mkdir()
    for module, source in {"mrdist": "mrdist", "mrdist_cluster": "cluster/mrdist_cluster", "mrdist_configs": "configs"}.items():
        shutil.copytree(ROOT / source, job / module, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(lab / "drill.yaml", job)
    ray = [str(Path(sys.executable).with_name("ray"))]
    head, board, client = free_port(), free_port(), free_port()
    heads = [*ray, "start", "--head", f"--port={head}", f"--dashboard-port={board}", f"--ray-client-server-port={client}"]
    words = ["--block", "--num-cpus=2", "--object-store-memory=150000000"]
    jobs, brought = f"--address=http://127.0.0.1:{board}", ["--no-wait", "--submission-id=train", f"--working-dir={job}", "--"]
    train = [*TRAIN, "drill.yaml", f"runs={lab}/job-runs", f"store={lab}/job-store"]
    quiet = environment(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")

    def run(*command: str, within: float = LATE) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=quiet, capture_output=True, text=True, check=False, timeout=within)

    with ExitStack() as nodes:
        for start in (heads, [*ray, "start", f"--address=127.0.0.1:{head}"]):
            folder = nodes.enter_context(tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True))
            own = [f"--temp-dir={folder}", f"--dashboard-agent-listen-port={free_port()}"]  # another Ray may have the usual one
            node = subprocess.Popen([*start, *words, *own], env=quiet, start_new_session=True)
            nodes.callback(os.killpg, node.pid, signal.SIGKILL)
            until(lambda: run(*ray, "health-check", f"--address=127.0.0.1:{head}").returncode == 0, "Ray")
        until(lambda: "/4.0 CPU" in run(*ray, "status", f"--address=127.0.0.1:{head}").stdout, "two nodes")
        until(lambda: run(*ray, "job", "submit", jobs, *brought, *train).returncode == 0, "a node that takes jobs")
        said = run(*ray, "job", "logs", jobs, "--follow", "train", within=2 * LATE).stdout
    assert "2 nodes: 4 cores" in said
    assert "Zero-shot classification" in said, said
    assert curve(the_run(lab / "job-runs")) == curve(torchrun)


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])
