"""Finished runs that follow a known law."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrdist.scaling.grid import Grid
from mrdist.scaling.results import Result

SIZES = {"w16": 22_616, "w32": 53_240, "w64": 160_568, "w128": 559_544}
FLOOR, SCALE, POWER = 0.6, 1.6, 0.5
GRID = Grid(sizes=dict.fromkeys(SIZES), objectives=("relations", "alone"), seeds=(0, 1), terms=("align/image", "align/text"))


def law(parameters: float, shapes: float = 870.0, *, data: float = 0.0) -> float:
    return FLOOR + SCALE * (parameters / 22_616) ** -POWER + data * (shapes / 870) ** -0.4


def run(size: str, objective: str, seed: int, *, fraction: float = 1.0, noise: float = 0.01, data: float = 0.0, steps: int = 250) -> Result:
    """A run of that law, worse by 0.1 nats and 4 points if `alone`; noise is of the logarithm of its loss."""
    random = np.random.default_rng([seed, *map(ord, size + objective), int(100 * fraction)])
    parameters, shapes = SIZES[size], round(870 * fraction)
    held = (law(parameters, shapes, data=data) + 0.1 * (objective == "alone")) * np.exp(noise * random.standard_normal())
    step = 6.0 * parameters * 33 * 128
    at = np.arange(20, steps + 1, 10)
    # A large student begins slower per flop, and ends lower.
    curve = tuple((float(step * k), float(held + 6 * np.exp(-k / 60) + 0.02 * random.standard_normal())) for k in at)
    return Result(
        size=size, objective=objective, fraction=fraction, seed=seed, folder=f"{size}-{objective}-s{seed}", parameters=parameters,
        blocks=parameters // 2, samples=steps * 128, shapes=shapes, flops=step * steps, six_nd=step * steps,
        hours=0.02 * parameters / 22_616, loss=curve[-1][1], held_out=float(held),
        top1=float(0.95 - 0.15 * held - 0.04 * (objective == "alone")),
        recall={"text_to_points": 0.3, "points_to_text": 0.3}, curve=curve,
    )  # fmt: skip


def runs(objectives: Sequence[str] = ("relations", "alone"), *, noise: float = 0.01, seeds: int = 2) -> list[Result]:
    return [run(size, objective, seed, noise=noise) for objective in objectives for size in SIZES for seed in range(seeds)]
