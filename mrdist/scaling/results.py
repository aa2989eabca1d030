"""What a run of a grid came to: loss, zero-shot, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import numpy as np

from mrdist.errors import DataError
from mrdist.evaluation import report
from mrdist.recipe import Recipe
from mrdist.scaling.grid import Cell, Grid
from mrdist.students.base import StudentConfig
from mrdist.training import checkpoint
from mrdist.training.folder import lines
from mrdist.training.footprint import operations


@dataclass(frozen=True)
class Result:
    """One finished run, in plain numbers."""

    size: str
    objective: str
    fraction: float
    seed: int
    folder: str
    parameters: int  # of the student, everything counted: tokenizer, blocks, projection; there are no tables of embeddings
    blocks: int  # of them, in transformer blocks
    samples: int  # clouds seen, with repetition
    shapes: int  # different training shapes among them
    flops: float  # of the student, forward and backward, of all samples: every product counted, attention and tokenizer included
    six_nd: float  # 6 x parameters x tokens x samples, for those who compare with language models
    hours: float  # of devices: seconds of steps x ranks
    loss: float  # training: mean of the last steps, of the terms that the grid names
    held_out: float  # nats: cross-entropy of retrieval on the grid's split, mean over directions (`evaluation.retrieval`)
    top1: float | None  # zero-shot on that split; None where shapes have no category
    recall: dict[str, float]  # R@1 by direction
    curve: tuple[tuple[float, float], ...]  # (flops spent, training loss), means over as many steps as `loss` is of


def collect(cell: Cell, grid: Grid, *, width: int, shapes: int) -> Result:
    """Read a finished run's folder.

    Args:
        width: E, of the teacher's embedding.
        shapes: in the training split.

    Raises:
        DataError: it was not measured on the grid's split, or has no term of a name that the grid wants.
        CheckpointError: it has no checkpoint.
    """
    recipe, folder = cell.recipe, cell.folder
    facts: dict[str, Any] = json.loads((checkpoint.find(folder) / checkpoint.INDEX).read_text())
    student = f"weights/{facts['exported']}"
    held = {n: prod(shape) for file in facts["files"] for n, (shape, _) in file["tensors"].items() if n.startswith(student)}
    each = flops_per_sample(recipe, width)
    steps = list(lines(folder / "metrics.jsonl"))
    losses = [_loss(line, grid.terms, str(folder)) for line in steps]
    curve = [(each * recipe.batch * steps[k - 1]["step"], float(np.mean(losses[max(0, k - grid.last) : k])))
             for k in range(grid.last, len(losses) + 1, max(1, grid.last // 2))]  # fmt: skip
    figures = report.read(folder).flat()
    retrieval = {name.split("/")[1]: value for name, value in figures.items() if name.startswith(f"{grid.split}/") and name.endswith("/r1")}
    nats = [figures[f"{grid.split}/{direction}/nats"] for direction in retrieval if f"{grid.split}/{direction}/nats" in figures]
    if not nats:
        raise DataError(what=str(folder), got=f"no retrieval on {grid.split}", wanted="captions or views", try_=f"mrdist evaluate {folder}")
    parameters, samples = sum(held.values()), recipe.batch * recipe.steps
    return Result(
        size=cell.size, objective=cell.objective, fraction=cell.fraction, seed=cell.seed, folder=folder.name, parameters=parameters,
        blocks=sum(n for name, n in held.items() if ".blocks." in name), samples=samples, shapes=round(shapes * cell.fraction),
        flops=each * samples, six_nd=6.0 * parameters * tokens(recipe) * samples,
        hours=sum(line["seconds"] for line in steps) * int(facts["ranks"]) / 3600, loss=float(np.mean(losses[-grid.last :])),
        held_out=float(np.mean(nats)), top1=figures.get(f"{grid.split}/top1"), recall=retrieval, curve=tuple(curve),
    )  # fmt: skip


def flops_per_sample(recipe: Recipe, width: int) -> float:
    """Of one cloud, forward and backward, counted on the meta device."""
    return operations(cast(StudentConfig, recipe.student), width=width, points=recipe.sample)[1]


def tokens(recipe: Recipe) -> float:
    """Of one cloud in training: groups that are kept, and the class token."""
    student: Any = recipe.student
    return 1 + getattr(student, "groups", 0) * (1 - getattr(student, "patch_dropout", 0.0))


def _loss(line: dict[str, Any], terms: Sequence[str], what: str) -> float:
    missing = [name for name in terms if name not in line["terms"]]
    if missing:
        near = ", ".join(line["terms"])
        raise DataError(what=what, got=f"no term {missing[0]!r}", wanted=f"one of {near}", try_="grid.terms=[]")
    return float(sum(line["terms"][name] for name in terms) if terms else line["loss"])
