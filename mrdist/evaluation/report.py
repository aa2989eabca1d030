"""The figures of one checkpoint, with their contract beside them: as JSON for machines, as a table for people."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from mrdist.errors import DataError
from mrdist.evaluation.retrieval import Recall
from mrdist.evaluation.zeroshot import ZeroShot

FORMAT = 1
REPORT, TABLE = "report.json", "report.md"
DIRECTIONS = {
    "text_to_points": "text → points",
    "points_to_text": "points → text",
    "image_to_points": "image → points",
    "points_to_image": "points → image",
}
_LARGEST_PICTURE = 40  # classes


@dataclass(frozen=True)
class Figures:
    """What was measured on one split."""

    split: str
    contract: Mapping[str, Any]  # which shapes, classes, sentences: what must be equal for two figures to be comparable
    zero_shot: ZeroShot | None = None  # None where no shape has a category
    retrieval: Mapping[str, Recall] = field(default_factory=dict)

    def flat(self) -> dict[str, float]:
        """Every figure by name, "split/top1", "split/text_to_points/r1": for a board, or to choose the best checkpoint by."""
        held: dict[str, float] = {}
        if self.zero_shot is not None:
            shown = ("top1", "top3", "top5", "mean_class", "chance")
            held |= {f"{self.split}/{name}": getattr(self.zero_shot, name) for name in shown}
        for direction, found in self.retrieval.items():
            held |= {f"{self.split}/{direction}/{name}": getattr(found, name) for name in ("r1", "r5", "r10", "median_rank")}
            held |= {f"{self.split}/{direction}/nats": found.nats} if found.nats is not None else {}
        return held


@dataclass(frozen=True)
class Report:
    """All figures of one checkpoint."""

    name: str  # of the run or encoder
    contract: Mapping[str, Any]  # what all splits have in common: points, colour, axis, teacher
    splits: tuple[Figures, ...]

    def flat(self) -> dict[str, float]:
        """Every figure of every split by name."""
        return {name: value for figures in self.splits for name, value in figures.flat().items()}


def write(report: Report, folder: Path) -> Path:
    """Write report.json, report.md and confusion-SPLIT.png into `folder`; each appears whole, the JSON last. Returns the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for figures in report.splits:
        if figures.zero_shot is not None:
            _put(folder / f"confusion-{figures.split}.png", confusion_picture(figures.zero_shot))
    _put(folder / TABLE, table(report).encode())
    _put(folder / REPORT, (json.dumps(_plain(report), indent=1, allow_nan=False) + "\n").encode())
    return folder / REPORT


def read(path: Path) -> Report:
    """The report in a JSON file that `write` wrote, or in a folder that holds one.

    Raises:
        DataError: there is none, or it is no report.
    """
    path = path / REPORT if path.is_dir() else path
    try:
        tree = json.loads(path.read_bytes())
        if tree["format"] != FORMAT:
            raise ValueError(f"format {tree['format']!r}")
        return Report(str(tree["name"]), dict(tree["contract"]), tuple(_figures(held) for held in tree["splits"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as wrong:
        raise DataError(what=str(path), got=str(wrong), wanted="a report", try_="mrdist evaluate RUN") from None


def table(report: Report, *, contract: bool = True) -> str:
    """A report as Markdown that also reads well on a console; with what it was measured under, unless told otherwise."""
    lines = [f"# {report.name}", ""]
    shown = [figures for figures in report.splits if figures.zero_shot is not None]
    if shown:
        rows = []
        for figures in shown:
            held = figures.zero_shot
            assert held is not None
            shares = (held.top1, held.top3, held.top5, held.mean_class, held.chance)
            rows.append([figures.split, str(held.count), str(len(held.classes)), *map(_percent, shares)])
        lines += ["Zero-shot classification, %", ""]
        lines += grid(["split", "shapes", "classes", "top-1", "top-3", "top-5", "mean class", "chance"], rows)
        for figures in shown:
            assert figures.zero_shot is not None
            if wrong := figures.zero_shot.mistakes(5):
                told = ", ".join(f"{a} taken for {b} {count} ×" for a, b, count in wrong)
                lines += ["", f"Most frequent mistakes on {figures.split}: {told}."]
        lines.append("")
    found = [(f.split, d, f.retrieval[d]) for f in report.splits for d in DIRECTIONS if d in f.retrieval]
    if found:
        rows = [
            [
                split,
                DIRECTIONS[d],
                str(r.queries),
                str(r.gallery),
                *map(_percent, (r.r1, r.r5, r.r10)),
                f"{r.median_rank:g}",
                _percent(r.chance),
            ]
            for split, d, r in found
        ]
        lines += ["Retrieval, %", ""]
        lines += [*grid(["split", "direction", "queries", "gallery", "R@1", "R@5", "R@10", "median rank", "chance"], rows), ""]
    if contract:
        lines += ["Measured under", ""]
        common = {("", name): value for name, value in report.contract.items()}
        own = {(figures.split, name): value for figures in report.splits for name, value in figures.contract.items()}
        lines += grid(
            ["split", "what", "value"], [[split or "all", name, str(value)] for (split, name), value in {**common, **own}.items()]
        )
    return "\n".join(lines) + "\n"


def compare(reports: Sequence[Report]) -> str:
    """Reports side by side: every figure that two have, with its difference from the first; and where their contracts differ.

    Raises:
        DataError: fewer than two reports.
    """
    if len(reports) < 2:
        raise DataError(what="compare", got=f"{len(reports)} reports", wanted="at least two", try_="mrdist compare RUN RUN")
    flat = [report.flat() for report in reports]
    names = [name for name in dict.fromkeys(name for held in flat for name in held) if sum(name in held for held in flat) > 1]
    rows = [[name, *(_beside(name, held, flat[0], n > 0) for n, held in enumerate(flat))] for name in names]
    lines = [*grid(["figure", *(report.name for report in reports)], rows), ""]
    contracts = [
        {**report.contract, **{f"{f.split}: {name}": value for f in report.splits for name, value in f.contract.items()}}
        for report in reports
    ]
    keys = list(dict.fromkeys(key for held in contracts for key in held))
    apart = [key for key in keys if len({json.dumps(held.get(key), sort_keys=True, default=str) for held in contracts}) > 1]
    if not apart:
        return "\n".join([*lines, "Measured under the same contract."]) + "\n"
    lines += ["Not measured under the same contract:", ""]
    lines += grid(
        ["what", *(report.name for report in reports)], [[key, *(str(held.get(key, "–")) for held in contracts)] for key in apart]
    )
    return "\n".join(lines) + "\n"


def confusion_picture(held: ZeroShot) -> bytes:
    """The confusion matrix as PNG, in % of what a shape is (row) by what it was taken for (column); the most confused classes first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wrong = held.confusion - np.diag(np.diag(held.confusion))
    order = np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")[:_LARGEST_PICTURE]
    counts = held.confusion[np.ix_(order, order)]
    shapes = held.confusion.sum(1)[order]
    share = 100 * counts / np.maximum(shapes, 1)[:, None]
    names = [held.classes[i] for i in order]
    size = 2.5 + 0.28 * len(names)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="viridis", vmin=0, vmax=100)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), [f"{name} ({n})" for name, n in zip(names, shapes, strict=True)], fontsize=7)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    left = len(held.classes) - len(names)
    axes.set_title(
        f"top-1 {_percent(held.top1)} % of {held.count}" + (f"; {left} classes confused less are left out" if left else ""), fontsize=9
    )
    for i, j in np.argwhere(share >= 1):
        axes.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=6, color="white" if share[i, j] < 60 else "black")
    figure.colorbar(image, ax=axes, shrink=0.8, label="%")
    out = BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


def _beside(name: str, held: Mapping[str, float], first: Mapping[str, float], later: bool) -> str:
    if name not in held:
        return "–"
    no_share = name.endswith(("median_rank", "nats"))
    text = f"{held[name]:.4g}" if no_share else _percent(held[name])
    if not later or name not in first or name.endswith("chance"):
        return text
    off = held[name] - first[name]
    return f"{text} ({off:+.3g})" if no_share else f"{text} ({100 * off:+.1f})"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns stand under one another."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return [line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _plain(report: Report) -> dict[str, Any]:
    splits = []
    for figures in report.splits:
        held = figures.zero_shot
        zero_shot = None
        if held is not None:
            rows, columns = np.nonzero(held.confusion)
            # Almost all of a confusion matrix is zero: [is, taken for, how often] of the rest.
            sparse = np.stack([rows, columns, held.confusion[rows, columns]], axis=1).tolist()
            plain = {name: getattr(held, name) for name in ("count", "chance", "top1", "top3", "top5", "mean_class", "per_class")}
            zero_shot = {**plain, "classes": list(held.classes), "confusion": sparse}
        retrieval = {name: asdict(recall) for name, recall in figures.retrieval.items()}
        splits.append({"split": figures.split, "contract": dict(figures.contract), "zero_shot": zero_shot, "retrieval": retrieval})
    return {"format": FORMAT, "name": report.name, "contract": dict(report.contract), "splits": splits}


def _figures(tree: Mapping[str, Any]) -> Figures:
    held = tree["zero_shot"]
    zero_shot = None
    if held is not None:
        sparse = np.asarray(held["confusion"], dtype=np.int64).reshape(-1, 3)
        confusion = np.zeros((len(held["classes"]),) * 2, dtype=np.int64)
        confusion[sparse[:, 0], sparse[:, 1]] = sparse[:, 2]
        zero_shot = ZeroShot(**{**held, "classes": tuple(held["classes"]), "confusion": confusion})
    retrieval = {str(name): Recall(**recall) for name, recall in tree["retrieval"].items()}
    return Figures(str(tree["split"]), dict(tree["contract"]), zero_shot, retrieval)


def _put(path: Path, content: bytes) -> None:
    """Written beside, then renamed: nobody reads half a report."""
    beside = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
