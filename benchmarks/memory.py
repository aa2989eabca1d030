"""Memory of a training step on two ranks, by size and ZeRO stage: measured, beside what `mrdist plan` says of it.

    python benchmarks/memory.py                                     # tiny, small and base: plain and ZeRO 0 to 3
    python benchmarks/memory.py giant --engines zero3 --batch 2 --steps 2 engine.build_sharded=true engine.sub_group=20000000 \\
        engine.live=0 engine.reuse=0 engine.prefetch_bucket=1000000 engine.reduce_bucket=10000000     # the leanest: 10 GiB a rank

The real objective (MRD), engine and sizes, on gloo ranks of one CPU core each; clouds are made up. "training" is the highest resident set
of the hungrier rank during some steps, above what the process held after a step of a very small student, when all libraries are there.
Tensors are mapped one by one, so what is freed is given back, and filled when they are made, so what is reserved is there, as on a GPU.
The plan is what the recipe would be told on this allocation, its activations counted on paper.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from mrdist.objectives.base import Objective
from mrdist.ranks import Ranks
from mrdist.recipe import Recipe, load
from mrdist.site import DEVICES, Allocation
from mrdist.testing import on_ranks, share, tiny_triplets
from mrdist.training import zero  # noqa: F401  (imported in the server that ranks are forked from)
from mrdist.training.engine import Engine
from mrdist.training.plan import plan

WIDTH = 1024
MIB, GIB = 2**20, 2**30


def status(key: str) -> int:
    """Bytes."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))


def peak_from_here() -> None:
    with open("/proc/self/clear_refs", "w") as forget:
        forget.write("5")


def built(recipe: Recipe, ranks: Ranks) -> Engine:
    def make() -> Objective[object]:
        return recipe.objective.build(recipe.student.build(WIDTH, seed=0))  # type: ignore[attr-defined, no-any-return]

    return recipe.engine.build(make, recipe, ranks, torch.device("cpu"))  # type: ignore[attr-defined, no-any-return]


def steps(ranks: Ranks, recipe: Recipe, count: int) -> tuple[int, int, float, float]:
    """Highest bytes while building and while training, seconds of the last step, and its loss."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what `torch.empty` makes
    warm = load("mrd/tiny", ["student=micro", "engine=plain", f"batch={ranks.size}", "device=cpu"])
    engine = built(warm, ranks)
    engine.step(engine.forward(share(tiny_triplets(warm.batch, width=WIDTH, points=warm.sample), ranks)))  # libraries take their memory
    engine.close()
    del engine
    gc.collect()
    before = status("VmRSS")
    peak_from_here()
    engine = built(recipe, ranks)
    building = status("VmHWM") - before
    peak_from_here()
    for seed in range(count):
        batch = share(tiny_triplets(recipe.batch, width=WIDTH, points=recipe.sample, seed=seed), ranks)
        began = time.perf_counter()
        loss = engine.forward(batch)
        engine.step(loss)
        seconds, total = time.perf_counter() - began, float(ranks.average(loss.total.detach()))
        if ranks.first:
            print(f"    step {seed + 1}: {seconds:.1f} s, loss {total:.4f}, {(status('VmHWM') - before) / GIB:.2f} GiB", flush=True)
    training = status("VmHWM") - before
    engine.close()
    return building, training, seconds, total


def one(size: str, engine: str, batch: int, ranks: int, count: int, changes: Sequence[str]) -> float:
    """A line of the table; returns the plan over the measurement."""
    words = [f"student={size}", f"engine={engine}", f"batch={batch}", "device=cpu", "steps=1000", "optim.warmup=10", *changes]
    recipe = load("mrd/base", [word for word in words if engine != "plain" or not word.startswith("engine.")])
    allocation = Allocation(1, ranks, DEVICES["core"])
    allocation = replace(allocation, device=replace(allocation.device, memory=1024.0))  # refused by nobody
    bill = plan(recipe, allocation, width=WIDTH)
    found = on_ranks(ranks, steps, recipe, count, deadline=3000)
    building, training, seconds = (max(rank[k] for rank in found) for k in range(3))
    states = sum(item.bytes for item in bill.states)
    print(
        f"| {size}, {bill.census.parameters / 1e6:,.1f} M | {engine} | {bill.rows} | {building / MIB:,.0f} | {training / MIB:,.0f} | "
        f"{bill.needed / MIB:,.0f} | {states / MIB:,.0f} | {bill.needed / training:.2f} | {seconds:.1f} |",
        flush=True,
    )
    return bill.needed / training


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("sizes", nargs="*", help="presets of student, and key=value words for all of them")
    parse.add_argument("--engines", nargs="+", default=["plain", "zero0", "zero1", "zero2", "zero3"])
    parse.add_argument("--batch", type=int, default=4, help="of all ranks")
    parse.add_argument("--ranks", type=int, default=2)
    parse.add_argument("--steps", type=int, default=3)
    given = parse.parse_intermixed_args()
    sizes = [word for word in given.sizes if "=" not in word] or ["tiny", "small", "base"]
    # Read once, by the server from which ranks are forked.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": str(64 << 10), "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "2"}
    print(f"{given.ranks} ranks, gloo, torch {torch.__version__}; MiB of the hungrier rank\n")
    print("| student | engine | rows per rank | building | training | plan | its states | plan / measured | s a step |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|")
    for size in sizes:
        for engine in given.engines:
            one(size, engine, given.batch, given.ranks, given.steps, [word for word in given.sizes if "=" in word])


if __name__ == "__main__":
    main()
