"""Rows per second from the loader, with threads and with processes, and what they cost a training loop beside them.

    python benchmarks/loader.py            # a store of 1,024 clouds of 10,000 points is made in a temporary folder

The training loop is a stand-in that is bound by Python and by launches, as small models are: 10,000 tiny operations per step, on the GPU
where there is one. "slower" compares its step with the same loop fed by one ready batch.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mrdist.data.loader import Loader
from mrdist.data.parts import write_index, write_part
from mrdist.data.shards import Shards
from mrdist.data.triplets import TripletStore
from mrdist.ranks import Ranks
from mrdist.recipe import Augment
from mrdist.shapes import Points, Triplet, TripletBatch

POINTS, WIDTH, BATCH, PART, PARTS, LAUNCHES = 10_000, 512, 64, 64, 16, 10_000


def make_store(folder: Path) -> TripletStore:
    random = np.random.default_rng(0)
    shards = Shards(folder)

    def unit(rows: int) -> np.ndarray:
        held = random.standard_normal((rows, WIDTH))
        return np.asarray(held / np.linalg.norm(held, axis=1, keepdims=True), np.float16)

    for part in range(PARTS):
        held = [
            Triplet(f"{part}-{k}", "x", Points(*random.random((2, POINTS, 3), dtype=np.float32)), unit(12), unit(2), ("a", "b"))
            for k in range(PART)
        ]
        write_part(shards, part, held, ["train"] * PART, width=WIDTH, points=POINTS)
    write_index(shards, PARTS, width=WIDTH, points=POINTS)
    return TripletStore.open(folder)


class Steps(Dataset[dict[str, torch.Tensor]]):
    """The same batches, for worker processes of torch."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        return self.loader.at(step).tensors()


def by_processes(loader: Loader, workers: int, device: str) -> Iterator[TripletBatch]:
    steps: Iterator[int] = itertools.count()
    pinned = device == "cuda"
    batches = DataLoader(
        Steps(loader), sampler=steps, batch_size=None, num_workers=workers, collate_fn=lambda held: held, pin_memory=pinned
    )
    return (TripletBatch(**held).to(device) for held in batches)


def rate(batches: Iterator[TripletBatch], steps: int = 40) -> float:
    next(batches)
    begin = time.perf_counter()
    for _ in range(steps):
        next(batches)
    return steps * BATCH / (time.perf_counter() - begin)


def step_seconds(batches: Iterator[TripletBatch], device: str, steps: int = 15) -> float:
    """Median seconds of a step of the stand-in: take a batch, launch, wait for the device."""
    weight = torch.ones(64, device=device)
    seconds = []
    for _ in range(steps + 3):
        begin = time.perf_counter()
        held = next(batches).image[0, :64]
        for _ in range(LAUNCHES):
            held = held * weight
        held.sum().item()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds[3:]))


def main() -> None:
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder))

        def loader(sample: int, workers: int) -> Loader:
            return Loader(
                store, "train", batch=BATCH, sample=sample, seed=0, ranks=Ranks(), augment=Augment(), workers=workers, device=device
            )

        print(
            f"{'points':>8} {'workers':>20} {'rows/s':>9} {'step, 10,000 launches':>23} {'slower':>7}   ({BATCH} rows per batch, {device})"
        )
        for sample in (1024, POINTS):
            ready = next(loader(sample, 0).batches(0))
            base = step_seconds(itertools.repeat(ready), device)
            print(f"{sample:8d} {'one ready batch':>20} {'':>9} {base * 1e3:20.1f} ms")
            ways: list[tuple[str, Callable[[], Iterator[TripletBatch]]]] = [("none", lambda s=sample: loader(s, 0).batches(0))]  # type: ignore[misc]
            for count in (1, 2, 4):
                ways.append((f"{count} threads", lambda s=sample, n=count: loader(s, n).batches(0)))  # type: ignore[misc]
                ways.append((f"{count} processes", lambda s=sample, n=count: by_processes(loader(s, 0), n, device)))  # type: ignore[misc]
            for name, make in ways:
                rows = rate(make())
                step = step_seconds(make(), device)
                print(f"{sample:8d} {name:>20} {rows:9.0f} {step * 1e3:20.1f} ms {step / base - 1:6.0%}", flush=True)


if __name__ == "__main__":
    main()
