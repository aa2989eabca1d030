"""What came of a run: its student as an encoder, its figures, its folder for others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mrdist.recipe import Recipe

if TYPE_CHECKING:
    from mrdist.contract import Contract
    from mrdist.encoder import Encoder
    from mrdist.evaluation.report import Report
    from mrdist.hub import Result
    from mrdist.prepare import Prepared
    from mrdist.progress import Progress
    from mrdist.ranks import Ranks
    from mrdist.students.base import Student


def contract_of(recipe: Recipe, prepared: Prepared, step: int) -> Contract:
    """What the student of a recipe expects, and what it learnt from."""
    from mrdist.contract import Contract
    from mrdist.students.base import blank
    from mrdist.teachers.precomputed import Precomputed

    trained = {
        "recipe": recipe.name,
        "objective": recipe.objective.kind,
        "data": f"{len(prepared.store.indices('train'))} shapes of {recipe.data.kind}",
        "training": f"{step} steps of {recipe.batch} shapes, seed {recipe.seed}",
    }
    if weights := getattr(recipe.student, "weights", ""):
        trained["began with"] = Path(weights).name
    teacher = prepared.teacher
    # One that is not at hand is the one that its name says, as far as anybody knows.
    space = (teacher.model, "") if isinstance(teacher, Precomputed) else (recipe.teacher, teacher.fingerprint)
    return Contract(blank(recipe.student), prepared.store.width, recipe.sample, *space, trained)


def trained(folder: Path, recipe: Recipe, prepared: Prepared, ranks: Ranks) -> Encoder:
    """The best student of a run, if something measured which is the best, else its newest. Every rank calls.

    Raises:
        CheckpointError: there is no whole checkpoint.
    """
    from mrdist.encoder import Encoder, StudentPart
    from mrdist.ranks import this_device
    from mrdist.training import checkpoint

    stored = checkpoint.opened(checkpoint.find(folder), ranks)
    contract = contract_of(recipe, prepared, int(stored.facts["step"]))
    student = cast(StudentPart, contract.student).build(contract.width, seed=recipe.seed)
    student.load_state_dict(stored.student())
    return Encoder(student.eval(), contract).to(this_device(recipe.device))


def live(student: Student, recipe: Recipe, prepared: Prepared, step: int) -> Encoder:
    """The student of a run that goes on."""
    from mrdist.encoder import Encoder

    return Encoder(student, contract_of(recipe, prepared, step))


def results(report: Report, recipe: Recipe) -> list[Result]:
    """What the card of a run's student says of its figures."""
    from mrdist.hub import Result

    return [
        Result(f"{recipe.data.kind} data of {recipe.name}", figures.split, name, value)
        for figures in report.splits
        if (held := figures.zero_shot) is not None
        for name, value in (("top-1", held.top1), ("top-5", held.top5), ("mean class", held.mean_class))
    ]


def measured(
    encoder: Encoder, name: str, recipe: Recipe, prepared: Prepared, splits: Sequence[str], ranks: Ranks, progress: Progress
) -> Report:
    """An encoder's figures on some splits, with their contract. Every rank calls; each embeds its share."""
    from mrdist.evaluation.report import Report
    from mrdist.evaluation.store import common_contract, evaluate_store

    figures = tuple(
        evaluate_store(
            encoder, prepared.store, split, prepared.teacher, sentences=recipe.evaluate.templates, batch=recipe.evaluate.batch,
            ranks=ranks, progress=progress,
        )
        for split in splits
    )  # fmt: skip
    return Report(name, common_contract(encoder, prepared.teacher), figures)
