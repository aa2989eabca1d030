"""What a training step of a student spends on grouping points, on embedding groups and on its blocks, by size; and grouping beside others.

    python benchmarks/students.py                          # a CPU: tiny, small and base with 2 clouds; a GPU: all five with 64
    python benchmarks/students.py giant --rows 1
    python benchmarks/students.py tiny --compiled          # and the step with its blocks through torch.compile

A step is forward and backward of the student with its patch dropout, on clouds of 10,000 points: float32 on a CPU, bfloat16 autocast on
a GPU. Parts are timed one by one on the same shapes, by turns with the whole; medians are printed. "of the matrix rate" counts every
product of the step (what is computed twice counts twice) against one large product of the same type in the same run. On a CPU a second
table has grouping beside the libraries that it stands on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from mrdist.recipe import load
from mrdist.students import chance, grouping
from mrdist.students.blocks import recomputed, through
from mrdist.students.vit import ViT, ViTConfig
from mrdist.training.footprint import counted, operations

WIDTH, POINTS = 1024, 10_000
GIB = 2**30

Work = Callable[[], object]


def clouds(rows: int, device: str) -> Tensor:
    """[B, N, 3], on the unit sphere, as surfaces are."""
    random = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(rows, POINTS, 3, generator=random), dim=-1).to(device)


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Work) -> float:
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def by_turns(works: dict[str, Work], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, in rounds; the first round is not counted."""
    rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(repeats + 1)][1:]
    return {name: [round[name] for round in rounds] for name in works}


def rate(device: str) -> float:
    """Flop per second of one large product, in the type of a step."""
    side, dtype = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / min(seconds(lambda: a @ b) for _ in range(10))


def parts(config: ViTConfig, rows: int, device: str, *, compiled: bool) -> dict[str, Work]:
    """A whole training step of a student, and its parts on the shapes that they have in it."""
    student = cast(ViT, config.build(WIDTH, seed=0)).to(device).train()
    xyz, keys = clouds(rows, device), torch.arange(rows, device=device)
    picked = grouping.farthest(xyz, config.groups)
    centres = grouping.take(xyz, chance.kept(picked, keys, config.patch_dropout))
    members = grouping.nearest(xyz, centres, config.group_size)
    groups = torch.cat([grouping.take(xyz, members) - centres[:, :, None], grouping.take(xyz, members).sigmoid()], dim=-1)
    tokens = torch.randn(rows, centres.shape[1] + 1, config.dim, device=device, requires_grad=True)
    survival = chance.survival(keys, config.drop_path, config.depth)

    def differentiated(forward: Callable[[], Tensor]) -> Work:
        def work() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                out = forward()
            out.float().sum().backward()  # type: ignore[no-untyped-call]
            student.zero_grad(set_to_none=True)

        return work

    def embedded() -> Tensor:
        return student.lift(recomputed(student.groups, groups) if config.recompute else student.groups(groups))  # type: ignore[no-any-return]

    def looked() -> Tensor:
        x = through(student.blocks, tokens, survival, recompute=config.recompute)
        return student.project(student.norm(x[:, 0]))  # type: ignore[no-any-return]

    step = differentiated(lambda: student(xyz, xyz.sigmoid(), keys).embedding)
    works: dict[str, Work] = {
        "step": step,
        "farthest": lambda: grouping.farthest(xyz, config.groups),
        "nearest": lambda: grouping.nearest(xyz, centres, config.group_size),
        "groups": differentiated(embedded),
        "blocks": differentiated(looked),
    }
    if compiled:
        fast = cast(ViT, config.build(WIDTH, seed=0)).to(device).train()
        for block in fast.blocks:
            block.compile(dynamic=False)
        works["compiled"] = differentiated(lambda: fast(xyz, xyz.sigmoid(), keys).embedding)
    return works


def one(size: str, rows: int, repeats: int, device: str, *, compiled: bool) -> str:
    """A line of the first table."""
    config = cast(ViTConfig, load("mrd/base", [f"student={size}"]).student)
    works = parts(config, rows, device, compiled=compiled)
    if device == "cuda":
        works["step"]()
        wait()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        works["step"]()
        measured = torch.cuda.max_memory_allocated() - before
    taken = by_turns(works, repeats)
    fastest = rate(device)
    middle = {name: statistics.median(times) for name, times in taken.items()}

    def share(*names: str) -> float:
        return statistics.median(sum(each) / whole for *each, whole in zip(*(taken[n] for n in names), taken["step"], strict=True))

    flops = operations(config, width=WIDTH, points=POINTS)[1]
    planned = counted(config, width=WIDTH, points=POINTS, precision="bf16" if device == "cuda" else "fp32").bytes(rows)
    cells = [
        size, str(rows), f"{1e3 * middle['step'] / rows:,.1f}", f"{rows / middle['step']:,.2f}",
        *(f"{share(name):.1%}" for name in ("farthest", "nearest", "groups", "blocks")), f"{share('farthest', 'nearest', 'groups'):.1%}",
        f"{flops / 1e9:,.0f}", f"{rows * flops / middle['step'] / fastest:.0%}",
    ]  # fmt: skip
    cells += [f"{measured / GIB:.2f}", f"{planned / measured:.2f}"] if device == "cuda" else []
    cells += [f"{statistics.median(a / b for a, b in zip(taken['step'], taken['compiled'], strict=True)):.2f}"] if compiled else []
    return "| " + " | ".join(cells) + " |"


def beside_others(repeats: int) -> None:
    """Grouping on one core, ours beside the libraries that it stands on, in the way each is called by default and at its best."""
    import fpsample
    from scipy.spatial import cKDTree

    torch.set_num_threads(1)
    rows, groups, size = 16, 512, 64
    xyz = clouds(rows, "cpu")
    plain = [np.ascontiguousarray(cloud) for cloud in xyz.numpy()]
    centres = grouping.take(xyz, grouping.farthest(xyz, groups))
    middles = list(centres.numpy())
    sides: list[tuple[str, dict[str, Work]]] = [
        ("farthest points, 10,000 -> 512", {
            "mrdist": lambda: grouping.farthest(xyz, groups),
            "fpsample, buckets, height 5": lambda: [fpsample.bucket_fps_kdline_sampling(cloud, groups, 5, 0) for cloud in plain],
            "fpsample, tree": lambda: [fpsample.bucket_fps_kdtree_sampling(cloud, groups, 0) for cloud in plain],
            "fpsample, plain": lambda: [fpsample.fps_sampling(cloud, groups, start_idx=0) for cloud in plain],
            "torch, a batch at once": lambda: grouping._farthest(xyz, groups, torch.zeros(rows, dtype=torch.int64)),
        }),
        ("64 nearest of 512 centres", {
            "mrdist": lambda: grouping.nearest(xyz, centres, size),
            "scipy, its defaults": lambda: [cKDTree(cloud).query(at, size) for cloud, at in zip(plain, middles, strict=True)],
            "torch, cdist and topk": lambda: torch.cdist(centres, xyz).topk(size, largest=False, sorted=False),
        }),
    ]  # fmt: skip
    print("\n| one core | ms per cloud | mrdist's time is |\n|---|--:|--:|")
    for what, works in sides:
        taken = by_turns(works, repeats)
        for name, times in taken.items():
            ratio = statistics.median(a / b for a, b in zip(taken["mrdist"], times, strict=True))
            print(f"| {what}: {name} | {1e3 * statistics.median(times) / rows:.2f} | {ratio:.2f} of it |")


def main(words: Sequence[str] | None = None) -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("sizes", nargs="*", help="presets of student that are a vit")
    parse.add_argument("--rows", type=int, default=0)
    parse.add_argument("--repeats", type=int, default=5)
    parse.add_argument("--compiled", action="store_true")
    given = parse.parse_args(words)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = given.sizes or ["tiny", "small", "base", *(["large", "giant"] if device == "cuda" else [])]
    rows = given.rows or (64 if device == "cuda" else 2)
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads on a CPU"
    print(f"torch {torch.__version__}, {where}; shares are of a step\n")
    columns = ["student", "rows", "ms a cloud", "clouds/s", "farthest", "nearest", "groups", "blocks", "tokenizer"]
    columns += ["Gflop", "of the matrix rate"]
    columns += ["GiB", "counted / measured"] if device == "cuda" else []
    columns += ["faster compiled"] if given.compiled else []
    print("| " + " | ".join(columns) + " |\n|---" + "|--:" * (len(columns) - 1) + "|")
    for size in sizes:
        print(one(size, rows, given.repeats, device, compiled=given.compiled), flush=True)
    if device == "cpu":
        beside_others(given.repeats)


if __name__ == "__main__":
    main()
