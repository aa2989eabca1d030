"""The relation terms on several ranks of this machine: every mode beside the definition, CPU seconds and memory of each rank.

    python benchmarks/relation_ranks.py                  # 4,096 rows on two ranks

"definition" is what OpenCLIP does with `gather_with_grad`: gathered features, [local, all] matrices.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from relation import RELATION, ours, rows_of, status, step
from torch import Tensor

from mrdist.ranks import Ranks
from mrdist.relation import definition
from mrdist.relation.definition import Modality
from mrdist.relation.terms import Tiling
from mrdist.testing import on_ranks


def a_rank(ranks: Ranks, rows: int, width: int, names: Sequence[str], repeats: int) -> dict[str, tuple[float, float]]:
    """CPU seconds of a step and highest resident MB above the start, per side, on one of several ranks."""
    mine = slice(ranks.rank * rows // ranks.size, (ranks.rank + 1) * rows // ranks.size)
    held = [modality[mine].clone() for modality in rows_of(rows, width, torch.float32, "cpu")]
    out = {}
    for name in names:
        terms = gathered(ranks) if name == "definition" else ours(Tiling(mode=name), ranks)
        taken = []
        gc.collect()
        before = status("VmRSS")
        with open("/proc/self/clear_refs", "w") as forget:
            forget.write("5")
        for _ in range(repeats + 1):
            ranks.wait()
            began = time.process_time()
            step(terms, held)
            taken.append(time.process_time() - began)
        out[name] = statistics.median(taken[1:]), (status("VmHWM") - before) / 2**10
    return out


def gathered(ranks: Ranks) -> Callable[..., Tensor]:
    """The definition: gathered features, [local, all] matrices."""

    def terms(points: Tensor, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        everyone = torch.ones(len(points), dtype=torch.bool)
        p, i, t = (Modality.of(rows, everyone, ranks) for rows in (points, image, text))
        values = []
        for other in (i, t):
            held = definition.contrast(p, other, ranks, scale=scale)
            values.append(ranks.mean(held.surprise, held.rows))
        for rows, columns, same, across, self_too in (
            (p, p, i, i, False),
            (p, p, t, t, False),
            (p, t, i, t, True),
            (t, p, t, i, True),
            (p, i, t, i, True),
            (i, p, i, t, True),
        ):
            a, b = (
                definition.between(r, c, ranks, temperature=1 / RELATION, self_too=self_too) for r, c in ((rows, columns), (same, across))
            )
            values.append(ranks.mean(definition.jeffrey(a, b), b.rows) * (0.5 if self_too else 1.0))
        return torch.stack(values)

    return terms


def several(rows: int, width: int, size: int, repeats: int) -> None:
    """The table of several ranks on this machine."""
    names = ("definition", "row", "pair", "ring", "grid")
    # Each side alone, so that one's memory is not another's.
    held = {name: on_ranks(size, a_rank, rows, width, [name], repeats, deadline=1200.0) for name in names}
    print(f"\n| {rows:,} rows on {size} ranks (gloo) | CPU seconds per rank | faster | peak MB per rank | less |\n|---|--:|--:|--:|--:|")
    first = max(mine["definition"] for mine in held["definition"])
    for name in names:
        seconds, mb = (max(mine[name][k] for mine in held[name]) for k in (0, 1))
        print(f"| {name} | {seconds:.2f} | {first[0] / seconds:.1f} x | {mb:,.0f} | {first[1] / mb:.0f} x |")


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--rows", type=int, default=4096)
    parse.add_argument("--width", type=int, default=512)
    parse.add_argument("--ranks", type=int, default=2)
    parse.add_argument("--repeats", type=int, default=2)
    given = parse.parse_args()
    several(given.rows, given.width, given.ranks, given.repeats)


if __name__ == "__main__":
    main()
