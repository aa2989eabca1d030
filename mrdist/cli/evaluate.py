"""`mrdist evaluate` and `mrdist compare`: figures, with the contract they were measured under."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mrdist.cli.main import DONE, Flags
from mrdist.cli.outcome import measured, trained
from mrdist.cli.screen import Screen
from mrdist.errors import RecipeError, TeacherError
from mrdist.kinds import Part
from mrdist.recipe import Recipe, fingerprint, load

if TYPE_CHECKING:
    from mrdist.encoder import Encoder
    from mrdist.evaluation.report import Report
    from mrdist.progress import Progress
    from mrdist.ranks import Ranks
    from mrdist.teachers.base import Teacher


def evaluate(words: Sequence[str], flags: Flags) -> int:
    """`evaluate RUN|MODEL [SPLIT ...] [key=value ...]`: zero-shot and retrieval of a run's best student, written beside it.

    With `data=...`, on another catalogue or a converted test set, seen through the run's own teacher. A MODEL, which is an exported
    folder or a file that others released, has no data of its own.
    """
    from mrdist.evaluation import report
    from mrdist.ranks import Ranks

    splits = [word for word in words[1:] if "=" not in word]
    changes = [word for word in words[1:] if "=" in word]
    if not words or not (is_run(words[0]) or any(word.startswith("data") for word in changes)):
        got, wanted = " ".join(words[:1]) or "nothing", "a run folder; or a model, and data=..."
        try_ = f"ls runs/; or mrdist evaluate {words[0] if words else 'MODEL'} data=converted data.path=FOLDER"
        raise RecipeError(what="mrdist evaluate", got=got, wanted=wanted, try_=try_)
    if flags.dry_run:
        print(f"would measure {', '.join(splits) or 'the splits of its recipe'} with the student of {words[0]}")
        return DONE
    ranks = Ranks.from_environment(device=load(words[0]).device if is_run(words[0]) else "auto")
    try:
        screen = Screen(quiet=flags.quiet or not ranks.first)
        found, target = (run if is_run(words[0]) else model)(words[0], splits, changes, ranks, screen)
        if ranks.first:
            report.write(found, target)
            print(json.dumps(found.flat(), indent=1) if flags.json else f"{report.table(found)}\n-> {target}")
    finally:
        ranks.leave()
    return DONE


def run(name: str, splits: Sequence[str], changes: Sequence[str], ranks: Ranks, progress: Progress) -> tuple[Report, Path]:
    """The figures of a run's best student, and where they belong."""
    from mrdist.prepare import brings, open_prepared, prepare
    from mrdist.teachers.precomputed import name_of

    folder, recipe = Path(name), load(name)
    prepared = open_prepared(recipe)
    encoder = trained(folder, recipe, prepared, ranks)
    if not changes:
        return measured(encoder, folder.name, recipe, prepared, splits or recipe.evaluate.splits, ranks, progress), folder
    changed = load(folder, changes)
    target = folder / "elsewhere" / fingerprint(changed.data, changed.evaluate)
    if brings(changed):
        space = name_of(encoder.contract.teacher)
        return on_converted(encoder, folder.name, changed, space, lambda: prepared.teacher, splits, ranks, progress), target
    changed = through(prepared.teacher, changed, recipe)
    return measured(encoder, folder.name, changed, prepare(changed, progress), splits or changed.evaluate.splits, ranks, progress), target


def model(name: str, splits: Sequence[str], changes: Sequence[str], ranks: Ranks, progress: Progress) -> tuple[Report, Path]:
    """The figures of an encoder that has no run, and where they belong."""
    from mrdist.encoder import Encoder, from_pretrained
    from mrdist.prepare import brings, prepare
    from mrdist.ranks import this_device
    from mrdist.teachers.precomputed import name_of

    encoder = from_pretrained(name)
    contract = encoder.contract
    # Its own teacher, unless a word says otherwise; of a recipe, only what is measured on and how counts here.
    own = ["teacher.kind=clip", f"teacher.model={encoder.carried}"] if encoder.carried else as_words("teacher", contract.teacher)
    plain = ["views.pixels=224", f"points={contract.points}", f"sample={contract.points}", "evaluate.splits=[test]"]
    recipe = load("smoke", [*plain, *own, *changes])
    encoder.to(this_device(recipe.device))
    named = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    target = Path("evaluations") / f"{named}-{fingerprint(name, recipe.data, recipe.teacher, recipe.evaluate)}"
    if brings(recipe):
        reader = Encoder(encoder.student, replace(contract, teacher=recipe.teacher))
        return on_converted(encoder, name, recipe, name_of(recipe.teacher), reader.teacher, splits, ranks, progress), target
    prepared = prepare(recipe, progress)
    encoder.right(prepared.teacher)
    return measured(encoder, name, recipe, prepared, splits or recipe.evaluate.splits, ranks, progress), target


def on_converted(
    encoder: Encoder,
    name: str,
    recipe: Recipe,
    space: str,
    teacher: Callable[[], Teacher],
    splits: Sequence[str],
    ranks: Ranks,
    progress: Progress,
) -> Report:
    """The figures of an encoder on a converted store."""
    from mrdist.data.converted import ConvertedConfig
    from mrdist.evaluation.benchmark import evaluate_converted
    from mrdist.evaluation.report import Report
    from mrdist.evaluation.store import common_contract

    held = cast(ConvertedConfig, recipe.data).converted()
    reads, figures = evaluate_converted(
        encoder, held, splits or held.store.splits, space=space, teacher=teacher, sentences=recipe.evaluate.templates,
        batch=recipe.evaluate.batch, ranks=ranks, progress=progress,
    )  # fmt: skip
    return Report(name, common_contract(encoder, reads), figures)


def as_words(group: str, part: Part) -> list[str]:
    """A part as words of a command line."""
    return [f"{group}.{key}={value}" for key, value in asdict(part).items() if value != ""]


def through(teacher: Teacher, changed: Recipe, recipe: Recipe) -> Recipe:
    """`changed`, with the teacher of `recipe`: one that was fitted stays the one it is, whatever it would learn from other data.

    Raises:
        TeacherError: that teacher is not at hand, and `changed` names another.
    """
    from mrdist.teachers.clip import ClipConfig
    from mrdist.teachers.precomputed import Precomputed, name_of

    if isinstance(teacher, Precomputed):
        if name_of(changed.teacher) != teacher.fingerprint:
            got, try_ = f"teacher of kind {changed.teacher.kind}", " ".join(as_words("teacher", teacher.model)[:3])
            raise TeacherError(what="mrdist evaluate", got=got, wanted=f"{teacher.fingerprint}, whose space this is", try_=try_)
        return changed
    made_here = getattr(teacher, "folder", None)
    return replace(changed, teacher=ClipConfig(model=str(made_here)) if made_here else recipe.teacher)


def compare(words: Sequence[str], flags: Flags) -> int:
    """`compare RUN RUN ...`: every figure that the reports share, with differences from the first; says where contracts differ."""
    from mrdist.evaluation import report

    if len(words) < 2:
        raise RecipeError(what="mrdist compare", got=" ".join(words) or "nothing", wanted="two runs or more", try_="ls runs/")
    print(report.compare([report.read(Path(word)) for word in words]))
    return DONE


def is_run(word: str) -> bool:
    """Whether a word names a run folder. Another folder may well bear the name of a recipe."""
    return (Path(word) / "recipe.yaml").is_file()


def run_folder(verb: str, words: Sequence[str]) -> Path:
    """The run folder that a verb was given.

    Raises:
        RecipeError: there is none of that name.
    """
    if not words or not is_run(words[0]):
        raise RecipeError(what=f"mrdist {verb}", got=" ".join(words[:1]) or "nothing", wanted="a run folder", try_="ls runs/")
    return Path(words[0])
