"""The figure of an experiment: loss and zero-shot against size and compute, objectives side by side, seeds as points, laws with bands."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from mrdist.scaling.findings import Findings
from mrdist.scaling.grid import Grid
from mrdist.scaling.law import Law
from mrdist.scaling.results import Result

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's, which colour-blind readers can tell apart."""
MARKS = ("o", "s", "^", "D", "v", "P")
_STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4, "ytick.minor.width": 0.4, "pdf.fonttype": 42,
}  # fmt: skip


def draw(held: Findings, grid: Grid, files: Sequence[Path]) -> None:
    """Write the figure into files whose suffixes say how; each appears whole."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.0, 5.0), layout="constrained")
        FigureCanvasAgg(figure)
        (size, compute), (top1, gain) = figure.subplots(2, 2)
        most = max(r.fraction for r in held.results)
        for order, objective in enumerate(held.objectives):
            runs = [r for r in held.results if r.objective == objective and r.fraction == most]
            look = {"color": COLOURS[order % len(COLOURS)], "marker": MARKS[order % len(MARKS)]}
            _against_size(size, runs, [r.held_out for r in runs], look, objective)
            _law(size, runs, held.laws[objective], look["color"])
            _curves(compute, runs, look["color"], named=order == 0)
            if any(r.top1 is not None for r in runs):
                _against_size(top1, runs, [100 * (r.top1 or 0.0) for r in runs], look, objective, joined=True)
        _gains(gain, held, grid)
        for axes, letter in ((size, "a"), (compute, "b"), (top1, "c"), (gain, "d")):
            axes.set_title(letter, loc="left", fontweight="bold")
            axes.grid(visible=True, which="major", linewidth=0.3, alpha=0.5)
        for axes in (size, top1, gain):
            axes.set_xlabel("parameters of the student")
            _name_sizes(axes, sorted({r.parameters for r in held.results}))
        size.set_ylabel(f"held-out loss ({grid.split}), nats")
        size.legend(frameon=False)
        compute.set_xlabel("training compute, flop")
        compute.set_ylabel(f"training loss ({', '.join(grid.terms)})" if grid.terms else "training loss")
        top1.set_ylabel(f"zero-shot top-1 ({grid.split}), %")
        for file in files:
            out = BytesIO()
            figure.savefig(
                out, format=file.suffix[1:], dpi=220, metadata={"Software": None} if file.suffix == ".png" else {"CreationDate": None}
            )
            beside = file.with_name(f".{file.name}.new")
            beside.write_bytes(out.getvalue())
            beside.replace(file)


def _against_size(
    axes: Any, runs: Sequence[Result], values: Sequence[float], look: dict[str, str], label: str, *, joined: bool = False
) -> None:
    """Every seed as a hollow point; the mean of each size as a full one where nothing is fitted."""
    sizes = np.array([r.parameters for r in runs], np.float64)
    axes.plot(
        sizes,
        values,
        linestyle="none",
        markersize=4.5,
        markerfacecolor="none",
        markeredgewidth=0.8,
        label=None if joined else label,
        **look,
    )
    if joined:
        places = np.unique(sizes)
        means = [np.mean(np.asarray(values)[sizes == place]) for place in places]
        axes.plot(places, means, markersize=3, linewidth=1, label=label, **look)
    axes.set_xscale("log")


def _law(axes: Any, runs: Sequence[Result], law: Law | str, colour: str) -> None:
    """The law at all of the data, with its band; dashed where the data do not support it."""
    axes.set_yscale("log")
    _plain_ticks(axes)
    if isinstance(law, str):
        return
    sizes = [r.parameters for r in runs]
    x = np.geomspace(min(sizes) / 1.2, max(sizes) * 1.2, 100)
    variables = {name: x if name == "N" else np.full_like(x, runs[0].shapes) for name in law.power}
    low, high = law.band(variables)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    style = "-" if law.supported else "--"
    power = law.power["N"]
    axes.plot(
        x, law.at(variables), style, color=colour, linewidth=1, label=rf"$\alpha$ = {power.value:.2f} [{power.low:.2f}, {power.high:.2f}]"
    )


def _curves(axes: Any, runs: Sequence[Result], colour: str, *, named: bool) -> None:
    """Training loss against flops, a line per size, mean over seeds; the larger the thicker."""
    sizes = list(dict.fromkeys(r.size for r in runs))
    for order, size in enumerate(sizes):
        curves = [r.curve for r in runs if r.size == size]
        length = min(map(len, curves))
        if not length:
            continue
        flops, loss = np.array([curve[:length] for curve in curves]).mean(0).T
        axes.plot(flops, loss, color=colour, linewidth=0.6 + 0.9 * order / max(len(sizes) - 1, 1), alpha=0.9)
        if named:
            axes.annotate(size, (flops[-1], loss[-1]), xytext=(3, 0), textcoords="offset points", fontsize=6.5, va="center")
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_ticks(axes)


def _gains(axes: Any, held: Findings, grid: Grid) -> None:
    """Points of top-1 (or nats, where nothing has a class) over the objective that others are compared with."""
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xscale("log")
    of_loss = not any(gain.top1 for gain in held.gains)
    for order, objective in enumerate(dict.fromkeys(gain.objective for gain in held.gains)):
        mine = [gain for gain in held.gains if gain.objective == objective]
        look = {"color": COLOURS[order % len(COLOURS)], "marker": MARKS[order % len(MARKS)]}
        seeds = [(gain.parameters, v if of_loss else 100 * v) for gain in mine for v in (gain.held_out if of_loss else gain.top1)]
        axes.plot(*zip(*seeds, strict=True), linestyle="none", markersize=4.5, markerfacecolor="none", markeredgewidth=0.8, **look)
        means = [(p, np.mean([v for place, v in seeds if place == p])) for p in dict.fromkeys(p for p, _ in seeds)]
        axes.plot(*zip(*means, strict=True), markersize=3, linewidth=1, label=f"{objective} − {grid.objectives[-1]}", **look)
    axes.set_ylabel("held-out loss saved, nats" if of_loss else "gain in top-1, points")
    if held.gains:
        axes.legend(frameon=False)
    else:
        axes.set_axis_off()


def _name_sizes(axes: Any, sizes: Sequence[int]) -> None:
    """A tick where a size is: 560 k, 1.01 G."""
    from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(lambda value, _: EngFormatter()(float(f"{value:.3g}")))
    axes.xaxis.set_minor_locator(NullLocator())


def _plain_ticks(axes: Any) -> None:
    """1.5 instead of 1.5 x 10^0: losses span less than a decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
