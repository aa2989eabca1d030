"""What an experiment says: laws, gains and the best size, as JSON for machines and as a table for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrdist.evaluation.report import grid as columns
from mrdist.scaling.compute import Optimum, optimum
from mrdist.scaling.grid import Grid
from mrdist.scaling.law import Law, fit
from mrdist.scaling.results import Result
from mrdist.training.folder import replace_text

FORMAT = 1
JSON, TABLE, FIGURE = "scaling.json", "scaling.md", "scaling"


@dataclass(frozen=True)
class Gain:
    """How much better an objective is than the one it is compared with, seed by seed, at one size."""

    objective: str
    size: str
    parameters: int
    top1: tuple[float, ...]  # differences, one per seed
    held_out: tuple[float, ...]  # nats that are saved, one per seed


@dataclass(frozen=True)
class Findings:
    """All that was found. A law in words says why there is none."""

    name: str
    results: tuple[Result, ...]
    laws: dict[str, Law | str]  # of held-out loss, by objective
    optima: dict[str, Optimum | None]  # by objective, on all data
    gains: tuple[Gain, ...]

    @property
    def objectives(self) -> tuple[str, ...]:
        """In the order of the grid."""
        return tuple(dict.fromkeys(r.objective for r in self.results))


def found(name: str, results: Sequence[Result], grid: Grid) -> Findings:
    """Fit, compare and choose.

    Where at least three fractions of the data were trained on, the law has a second term, of the number of shapes; else only runs on the
    largest fraction count for it.
    """
    objectives = dict.fromkeys(r.objective for r in results)
    most = max(r.fraction for r in results)
    many = len({r.fraction for r in results}) > 2
    laws, optima = {}, {}
    for objective in objectives:
        mine = [r for r in results if r.objective == objective]
        whole = [r for r in mine if r.fraction == most]
        used = mine if many else whole
        variables = {"N": [float(r.parameters) for r in used]} | ({"D": [float(r.shapes) for r in used]} if many else {})
        laws[objective] = fit([r.held_out for r in used], variables)
        optima[objective] = optimum(whole)
    return Findings(name, tuple(results), laws, optima, tuple(_gains([r for r in results if r.fraction == most], grid)))


def _gains(results: Sequence[Result], grid: Grid) -> list[Gain]:
    """Of every objective over the last one, where both have runs of the same size and seed."""
    if len(grid.objectives) < 2:
        return []
    *others, base = grid.objectives
    held = {(r.objective, r.size, r.seed): r for r in results}
    out = []
    for objective in others:
        for size in grid.sizes:
            pairs = [
                (held[objective, size, s], held[base, size, s])
                for s in grid.seeds
                if {(objective, size, s), (base, size, s)} <= held.keys()
            ]
            if pairs:
                top1 = tuple(a.top1 - b.top1 for a, b in pairs if a.top1 is not None and b.top1 is not None)
                out.append(Gain(objective, size, pairs[0][0].parameters, top1, tuple(b.held_out - a.held_out for a, b in pairs)))
    return out


def table(held: Findings, grid: Grid) -> str:
    """Markdown that also reads well on a console."""
    head = [
        "size",
        "objective",
        "runs",
        "parameters",
        "flops",
        "device-hours",
        f"held-out ({grid.split}), nats",
        "training loss",
        "zero-shot top-1, %",
    ]
    rows = []
    for key in dict.fromkeys((r.objective, r.size, r.fraction) for r in held.results):
        runs = [r for r in held.results if (r.objective, r.size, r.fraction) == key]
        top1 = [100 * r.top1 for r in runs if r.top1 is not None]
        name = key[1] if key[2] == 1 else f"{key[1]}, {key[2]:g} of data"
        rows.append([
            name, key[0], str(len(runs)), f"{runs[0].parameters:,}", f"{runs[0].flops:.3g}", f"{np.mean([r.hours for r in runs]):.3g}",
            _spread([r.held_out for r in runs], 3), _spread([r.loss for r in runs], 3), _spread(top1, 1),
        ])  # fmt: skip
    lines = [f"# {held.name}", "", *columns(head, rows), ""]
    lines += ["Mean ± standard deviation over seeds. Parameters are all of the student's; flops are counted, forward and backward.", ""]
    lines += [line for objective in held.objectives for line in _said(objective, held)]
    lines += _compared(held, grid)
    return "\n".join(lines)


def _said(objective: str, held: Findings) -> list[str]:
    law, best = held.laws[objective], held.optima[objective]
    out = [f"## {objective}", ""]
    if isinstance(law, str):
        out += [f"No law was fitted: {law}."]
    else:
        terms = "".join(f" + {law.scale[v].value:.3g} ({v} / {law.centre[v]:.3g})^-{law.power[v].value:.3g}" for v in law.power)
        powers = "; ".join(f"power of {v} {_interval(law.power[v].value, law.power[v].low, law.power[v].high)}" for v in law.power)
        out += [
            f"L = {law.floor.value:.3g}{terms}",
            "",
            f"{powers}; floor {_interval(law.floor.value, law.floor.low, law.floor.high)} nats.",
        ]
        out += ["", "The data support it." if law.supported else f"The data do not support it: {'; '.join(law.reasons)}."]
        out += ["", f"Note: {'; '.join(law.notes)}."] if law.notes else []
    out += [""]
    if best is None:
        out += ["No two sizes were trained with the same compute: nothing can be said of the best one."]
    else:
        steps = ", ".join(f"{s.size} from {s.start:.2g} to {s.end:.2g}" for s in best.stretches)
        out += [
            f"Compute-optimal size: {best.best.size} at {best.best.end:.3g} flops, the largest budget that two sizes reached "
            f"(training loss; along the way: {steps})."
        ]
    return [*out, ""]


def _compared(held: Findings, grid: Grid) -> list[str]:
    if not held.gains:
        return []
    rows = [
        [gain.objective, gain.size, f"{gain.parameters:,}", _spread([100 * v for v in gain.top1], 1, "+"), _spread(gain.held_out, 3, "+")]
        for gain in held.gains
    ]
    head = ["objective", "size", "parameters", "top-1, points", "held-out loss saved, nats"]
    return [
        f"## Gain over {grid.objectives[-1]}",
        "",
        *columns(head, rows),
        "",
        "Differences of runs with the same seed, mean ± standard deviation.",
        "",
    ]


def as_json(held: Findings) -> dict[str, Any]:
    """Everything, in plain numbers."""
    laws: dict[str, Any] = {}
    for objective, law in held.laws.items():
        if isinstance(law, str):
            laws[objective] = {"supported": False, "reasons": [law]}
            continue
        numbers = {"floor": asdict(law.floor), "centre": law.centre}
        numbers |= {"scale": {v: asdict(i) for v, i in law.scale.items()}, "power": {v: asdict(i) for v, i in law.power.items()}}
        laws[objective] = {"supported": law.supported, "reasons": list(law.reasons), "notes": list(law.notes), **numbers}
    return {
        "format": FORMAT,
        "name": held.name,
        "law": "loss = floor + sum over variables of scale * (variable / centre) ** -power; intervals are of 95 %",
        "laws": laws,
        "compute_optimal": {o: None if best is None else [asdict(s) for s in best.stretches] for o, best in held.optima.items()},
        "gains": [asdict(gain) for gain in held.gains],
        "runs": [asdict(result) for result in held.results],
    }


def write(held: Findings, grid: Grid, folder: Path) -> list[Path]:
    """Write scaling.md, scaling.json, scaling.png and scaling.pdf into `folder`; returns their paths."""
    from mrdist.scaling.figure import draw

    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / TABLE, table(held, grid))
    replace_text(folder / JSON, json.dumps(as_json(held), indent=1) + "\n")
    pictures = [folder / f"{FIGURE}.{kind}" for kind in ("png", "pdf")]
    draw(held, grid, pictures)
    return [folder / TABLE, folder / JSON, *pictures]


def _spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    if not len(values):
        return "–"
    mean = f"{np.mean(values):{sign}.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3g} (95 %: {low:.3g} to {high:.3g})"
