"""Trained while it is prepared: bit for bit the run on a prepared store, whoever dies or stops meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore

from mrdist.cli.main import DONE, STOPPED, Flags
from mrdist.cli.train import carry_out
from mrdist.data import order
from mrdist.data.synthetic import SyntheticConfig
from mrdist.prepare import prepare
from mrdist.recipe import Recipe, Views, load
from mrdist.training.folder import lines
from tests.colours import Colours
from tests.e2e.test_prepare import ReadyConfig
from tests.waiting import LATE, until

RANKS = 2
SMALL = [
    "steps=16", "batch=8", "points=32", "sample=32", "workers=1", "device=cpu", "optim.warmup=2",
    "watch.log_every=0", "watch.pictures_every=0", "watch.save_every=0", "watch.evaluate_every=5", "watch.shapes=true",
]  # fmt: skip


def recipe(store: Path, **changes: Any) -> Recipe:
    """87 shapes to train on, which is 10 batches to an epoch, in 8 units."""
    given = replace(
        load("smoke", [*SMALL, f"store={store}"]),
        data=SyntheticConfig(train=3, val=1, test=0, unseen=1),
        views=Views(ring="front4", pixels=16, supersampling=1),
        teacher=ReadyConfig(),
    )
    return replace(given, evaluate=replace(given.evaluate, splits=("val",)), **changes)


def main(verb: str, store: str, *more: str) -> int:
    """What the processes of these tests do."""
    order.UNIT = 16
    if verb == "train":
        live, folder = more
        return carry_out(recipe(Path(store), live=live == "live"), Path(folder), Flags(quiet=True))
    (halt,) = more

    def images(self: Colours, encoded: Any) -> Any:
        if len(list(Path(store).glob("triplets/*/0*.json"))) == int(halt):
            time.sleep(100 * LATE)  # at work, and stuck: until somebody kills it
        return seen(self, encoded)

    seen = Colours.images
    Colours.images = images  # type: ignore[method-assign]
    prepare(recipe(Path(store)))
    return DONE


processes: list[subprocess.Popen[bytes]] = []
stores: list[TCPStore] = []


@pytest.fixture(autouse=True)
def _nobody_stays() -> Iterator[None]:
    yield
    for process in processes:
        process.kill()
        process.wait()
    processes.clear()
    stores.clear()


def started(*words: object, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.e2e.test_live", *map(str, words)]
    processes.append(subprocess.Popen(command, env={**os.environ, **environment, "OMP_NUM_THREADS": "1"}))
    return processes[-1]


def ranks(store: Path, live: str, folder: Path) -> list[subprocess.Popen[bytes]]:
    # As torchrun does: they meet in a store of ours, whose port the kernel has chosen.
    stores.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(stores[-1].port), "WORLD_SIZE": str(RANKS)}
    agent = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    return [started("train", store, live, folder, RANK=str(rank), LOCAL_RANK=str(rank), **meeting, **agent) for rank in range(RANKS)]


def curve(run: Path) -> list[tuple[Any, ...]]:
    taken = lines(run / "metrics.jsonl") if (run / "metrics.jsonl").is_file() else ()
    return [(line["step"], line["loss"], line["terms"], line["gradient_norm"], line["shapes"]) for line in taken]


def ended(some: list[subprocess.Popen[bytes]]) -> list[int]:
    return [process.wait(LATE) for process in some]


def test_a_live_run_is_the_run_on_a_prepared_store_whoever_is_killed_and_whoever_stops(tmp_path: Path) -> None:
    store, run, reference = tmp_path / "store", tmp_path / "run", tmp_path / "reference"
    trainers, maker = ranks(store, "live", run), started("prepare", store, 4)

    def three_steps() -> bool:
        assert all(process.poll() is None for process in (*trainers, maker))
        return len(curve(run)) >= 3

    until(three_steps, "three steps")
    maker.kill()
    maker.wait()
    assert not list(store.glob("triplets/*/index.json"))  # it trained, and there was more to come
    seen = len(curve(run))
    assert seen < 10
    (run / "stop").touch()  # now nobody can take a step, and still they stop together and in order
    assert ended(trainers) == [STOPPED] * RANKS
    assert (run / "latest").exists()

    trainers, maker = ranks(store, "live", run), started("prepare", store, -1)
    assert ended([*trainers, maker]) == [DONE] * (RANKS + 1)
    assert (run / "done").exists()
    assert ended(ranks(store, "prepared", reference)) == [DONE] * RANKS
    held = curve(reference)
    assert curve(run) == held
    assert [step for step, *_ in held] == list(range(1, 17))
    first = [name for *_, shapes in held[:10] for name in shapes]
    assert len(set(first)) == len(first) == 80


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
