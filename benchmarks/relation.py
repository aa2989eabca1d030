"""Time and memory of the relation terms: ours, streamed in tiles, beside plain autograd over whole matrices, in one run.

    python benchmarks/relation.py                        # 2,048 and 8,192 rows, then 32,768 of ours alone; numerics
    python benchmarks/relation.py --rows 32768 131072 --width 1024 --inputs bfloat16    # on a GPU: whatever fits

A step is forward and backward of all six terms (contrast with images and texts, Jeffrey of intra- and cross-relations) with a learnt
scale: 10 products of N x N x d for plain autograd, about 12 for ours, which computes cosines again instead of keeping them. "naive" shares
every Gram matrix, as a careful author would write it. Sides take turns, and a ratio is the median of ratios of neighbours. On a CPU the
allocator is told to keep its pages, which helps the naive side most. Memory: the highest resident set, or the GPU allocator's peak, above
what was there before, in a process of its own. Several ranks: `relation_ranks.py`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, normalize

from mrdist.ranks import Ranks
from mrdist.relation.asked import Relations
from mrdist.relation.terms import Tiling, relation_terms

ALIGN, RELATION = 100.0, 20.0  # scales: temperatures 0.01 and 0.05
NAIVE = ("naive", "naive compiled")
OURS = ("tiles", "tiles compiled", "triton")
TERMS = 6


def rows_of(count: int, width: int, dtype: torch.dtype, device: str, seed: int = 0) -> list[Tensor]:
    """Points, images and texts that have something to do with one another; unit rows."""
    random = torch.Generator(device).manual_seed(seed)

    def noise() -> Tensor:
        return torch.randn(count, width, generator=random, device=device)

    common = noise()
    return [normalize(0.7 * common + noise(), dim=-1).to(dtype) for _ in range(3)]


def naive(points: Tensor, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """All terms from six Gram matrices, in plain autograd."""
    points = normalize(points.float(), dim=-1).to(points.dtype)
    own = torch.arange(len(points), device=points.device)
    pp, ii, tt, pi, pt, it = (
        a @ b.T for a, b in ((points, points), (image, image), (text, text), (points, image), (points, text), (image, text))
    )

    def contrast(cosines: Tensor) -> Tensor:
        return (cross_entropy(scale * cosines, own) + cross_entropy(scale * cosines.T, own)) / 2

    def jeffrey(student: Tensor, teacher: Tensor, *, apart: bool = False) -> Tensor:
        a, b = RELATION * student, RELATION * teacher
        if apart:
            itself = torch.eye(len(a), dtype=torch.bool, device=a.device)
            a, b = a.masked_fill(itself, -1e6), b.masked_fill(itself, -1e6)
        p, q = log_softmax(a, -1), log_softmax(b, -1)
        return ((p.exp() - q.exp()) * (p - q)).sum(-1).mean()

    for_image = (jeffrey(pt, it) + jeffrey(pt.T, it.T)) / 2
    for_text = (jeffrey(pi, it.T) + jeffrey(pi.T, it)) / 2
    return torch.stack([contrast(pi), contrast(pt), jeffrey(pp, ii, apart=True), jeffrey(pp, tt, apart=True), for_image, for_text])


def ours(tiling: Tiling, ranks: Ranks | None = None) -> Callable[..., Tensor]:
    def terms(points: Tensor, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        held = relation_terms(
            points, image, text, scale=scale, relations=Relations(), intra_scale=RELATION, cross_scale=RELATION, ranks=ranks, tiling=tiling
        )
        return held.values

    return terms


def side(name: str) -> Callable[..., Tensor]:
    """What computes the terms."""
    return {
        "naive": naive,
        "naive compiled": torch.compile(naive, dynamic=False),
        "tiles": ours(Tiling(backend="torch", compile="never")),
        "tiles compiled": ours(Tiling(backend="torch", compile="always")),
        "triton": ours(Tiling(backend="triton")),
    }[name]


def step(terms: Callable[..., Tensor], held: Sequence[Tensor]) -> tuple[float, float, Tensor]:
    """Seconds, loss and gradient of one forward and backward."""
    points, scale = held[0].detach().clone().requires_grad_(), torch.tensor(ALIGN, device=held[0].device, requires_grad=True)
    wait(held[0])
    began = time.perf_counter()
    loss = terms(points, *held[1:], scale).sum()
    loss.backward()
    wait(held[0])
    assert points.grad is not None
    return time.perf_counter() - began, float(loss.detach()), points.grad


def wait(like: Tensor) -> None:
    if like.is_cuda:
        torch.cuda.synchronize()


def rate(width: int, dtype: torch.dtype, device: str) -> float:
    """Multiplications and additions per second of one large matrix product: the most that any side could use."""
    n = 8192 if device == "cuda" else 1024
    a, b, best = torch.randn(n, width, device=device).to(dtype), torch.randn(width, n, device=device).to(dtype), 0.0
    for _ in range(20 if device == "cuda" else 8):
        wait(a)
        began = time.perf_counter()
        a @ b
        wait(a)
        best = max(best, 2 * n * n * width / (time.perf_counter() - began))
    return best


def timed(names: Sequence[str], rows: int, width: int, dtype: torch.dtype, device: str, repeats: int) -> dict[str, dict[str, float]]:
    """Per side: seconds, ratio to the first, fraction of the matrix rate at 12 products, difference of gradient."""
    held = rows_of(rows, width, dtype, device)
    sides, taken, last = {name: side(name) for name in names}, {name: [] for name in names}, {}
    fastest = rate(width, dtype, device)
    for turn in range(repeats + 1):
        for name, terms in sides.items():
            seconds, loss, grad = step(terms, held)
            last[name] = (loss, grad)
            if turn:
                taken[name].append(seconds)
        fastest = max(fastest, rate(width, dtype, device))
    first = names[0]
    return {
        name: {
            "seconds": statistics.median(taken[name]),
            "ratio": statistics.median(b / a for a, b in zip(taken[first], taken[name], strict=True)),
            "rate": 12 * 2 * rows * rows * width / statistics.median(taken[name]) / fastest,
            "loss off": abs(last[name][0] / last[first][0] - 1),
            "gradient off": float((last[name][1] - last[first][1]).norm() / last[first][1].norm()),
        }
        for name in names
    }


def peak(name: str, rows: int, width: int, dtype: torch.dtype, device: str) -> float:
    """MB above the inputs, in this process."""
    held, terms = rows_of(rows, width, dtype, device), side(name)
    small = 1024 if "compiled" in name else 256
    step(terms, [rows[:small] for rows in held])  # libraries and compilers take their memory before
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(terms, held)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as forget:
        forget.write("5")
    step(terms, held)
    return (status("VmHWM") - before) / 2**10


def status(key: str) -> float:
    with open("/proc/self/status") as lines:
        return next(float(line.split()[1]) for line in lines if line.startswith(key))


def elsewhere(what: str, *words: object) -> dict[str, dict[str, float]] | float | None:
    """The same file in another process; None where it ran out of memory."""
    keep = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)} if what == "time" else {}
    done = subprocess.run(
        [sys.executable, __file__, "--do", what, *map(str, words)], env=os.environ | keep, capture_output=True, text=True, check=False
    )
    if done.returncode:
        if "memory" not in done.stderr and done.returncode != -9:
            raise SystemExit(done.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def one(rows: int, names: Sequence[str], rest: Sequence[object], repeats: int) -> None:
    """The table of one number of rows."""
    megabytes = {name: elsewhere("memory", name, rows, *rest) for name in names}
    fits = [name for name in names if megabytes[name] is not None]
    times = elsewhere("time", ",".join(fits), rows, *rest, repeats)
    assert isinstance(times, dict)
    first = fits[0]
    print(f"\n| {rows:,} rows | seconds | of {first} | of the matrix rate | peak MB | {first}'s is | loss, gradient off |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name in fits:
        t, mb, most = times[name], megabytes[name], megabytes[first]
        assert isinstance(mb, float)
        assert isinstance(most, float)
        cells = [f"{t['seconds']:.3f}", f"{t['ratio']:.2f}", f"{t['rate']:.2f}", f"{mb:,.0f}", f"{most / mb:.0f} x"]
        print("|", " | ".join([name, *cells, f"{t['loss off']:.0e}, {t['gradient off']:.0e}"]), "|")


def numerics(width: int) -> None:
    """How far gradients are from float64's, by what is rounded."""
    held = rows_of(1024, width, torch.float32, "cpu")
    wide = [rows.double() for rows in held]
    _, _, truth = step(ours(Tiling()), wide)

    def off(grad: Tensor) -> float:
        return float((grad.double() - truth).norm() / truth.norm())

    halves = [rows.bfloat16() for rows in held]
    with torch.autocast("cpu", torch.bfloat16):
        _, _, logits = step(naive, held)
    print("\n| gradient at temperature 0.01, 1,024 rows | off by |\n|---|--:|")
    for name, grad in (
        ("unit rows rounded to bfloat16, all else float64", step(ours(Tiling(operands="bfloat16")), wide)[2]),
        ("ours, unit rows rounded to bfloat16", step(ours(Tiling(operands="bfloat16")), held)[2]),
        ("ours, and the gradient handed back in bfloat16", step(ours(Tiling()), halves)[2]),
        ("naive under autocast: logits rounded to bfloat16 too", logits),
        ("ours, float32", step(ours(Tiling()), held)[2]),
        ("naive, float32", step(naive, held)[2]),
    ):
        print(f"| {name} | {off(grad):.1e} |")


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--rows", type=int, nargs="*", default=[2048, 8192])
    parse.add_argument("--alone", type=int, nargs="*", default=None, help="more rows, for ours only")
    parse.add_argument("--width", type=int, default=512)
    parse.add_argument("--inputs", default="float32")
    parse.add_argument("--repeats", type=int, default=5)
    parse.add_argument("--do", nargs="+", help=argparse.SUPPRESS)
    given = parse.parse_args()
    if given.do:
        what, name, rows, width, dtype, device, *repeats = given.do
        words = int(rows), int(width), getattr(torch, dtype), device
        print(json.dumps(timed(name.split(","), *words, int(repeats[0])) if what == "time" else peak(name, *words)))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rest = (given.width, given.inputs, device)
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads on a CPU"
    print(f"d = {given.width}, {given.inputs}, torch {torch.__version__}, {where}")
    for rows in given.rows:
        one(rows, NAIVE + (OURS if device == "cuda" else OURS[:2]), rest, given.repeats)
    for rows in given.alone if given.alone is not None else ([131072, 1048576] if device == "cuda" else [32768]):
        one(rows, ["triton"] if device == "cuda" else ["tiles compiled"], rest, 1)
    if device == "cpu":
        numerics(given.width)


if __name__ == "__main__":
    main()
