"""Over what a recipe is repeated, and the run that stands at each place of that grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrdist.errors import RecipeError
from mrdist.presets import GRID, grid, layers, over, parse
from mrdist.recipe import Recipe, build, plain, to_yaml, typed
from mrdist.training.folder import differences, replace_text

TRANSFERS = ("none", "mup")


@dataclass(frozen=True)
class Grid:
    """The section `grid` of a recipe's file. Every combination of sizes, objectives, fractions and seeds is one run."""

    sizes: dict[str, Any] = field(default_factory=dict)  # name -> a preset of student, or what it changes of the recipe; smallest first
    objectives: tuple[str, ...] = ()  # presets; the last is what the others are compared with; () = the recipe's own
    fractions: tuple[float, ...] = (1.0,)  # of the training shapes
    seeds: tuple[int, ...] = (0,)
    transfer: str = "none"  # none | mup: optim.lr is that of the first size, and carried over to the others' widths
    split: str = "test"  # on which held-out loss and zero-shot are measured
    terms: tuple[str, ...] = ()  # of the training loss that all objectives share; () = all of it
    last: int = 20  # steps over which the training loss is averaged


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    size: str
    objective: str
    fraction: float
    seed: int
    recipe: Recipe

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return Path(self.recipe.runs) / self.recipe.name.rpartition("/")[2]

    @property
    def done(self) -> bool:
        """Whether it has been trained and measured."""
        return (self.folder / "done").exists()

    def begin(self) -> None:
        """Write its recipe into its run folder, from which anybody can train it; or find it there.

        Raises:
            RecipeError: the folder holds another recipe.
        """
        kept = self.folder / "recipe.yaml"
        if kept.is_file():
            before, now = layers(self.folder), plain(self.recipe)
            changed = differences(before, now)
            # A run may go on for longer, but it decides about a schedule of all its steps.
            if before.get("steps") != now["steps"]:
                changed.append(f"steps ({before.get('steps')} before, {now['steps']} now)")
            if changed:
                raise RecipeError(
                    what=str(self.folder), got=f"another recipe: {', '.join(changed)}", wanted="the recipe of this run", try_="name=another"
                )
            if self.done:
                return
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_text(kept, to_yaml(self.recipe))


@dataclass(frozen=True)
class Experiment:
    """A grid and its runs."""

    name: str
    folder: Path  # of all run folders, and of what is found
    grid: Grid
    cells: tuple[Cell, ...]


def read(source: str | Path, changes: Sequence[str] = ()) -> Experiment:
    """An experiment from a recipe's file with a `grid`.

    Args:
        source: as `recipe.load` takes it.
        changes: words `key=value` of the recipe, or `grid.key=value`.

    Raises:
        RecipeError: there is no grid, or something in it or in one of its recipes does not mean anything.
    """
    told = [word for word in changes if word.partition("=")[0].partition(".")[0] == GRID]
    tree, wanted = layers(source, [word for word in changes if word not in told]), grid(source)
    for word in told:
        wanted = over(wanted, parse(word)[GRID])
    found = typed(Grid(), wanted, f"{source}: {GRID}")
    _check(found, str(source))
    base = _sized(tree, next(iter(found.sizes.values())))
    carried = _carried(found, base, str(source))
    cells = [
        _cell(over(_sized(tree, change), carried), size, objective, fraction, seed, str(source))
        for objective in found.objectives or ("",)
        for size, change in found.sizes.items()
        for fraction in found.fractions
        for seed in found.seeds
    ]
    if found.transfer == "mup":
        _check_widths(cells, str(source))
    first = cells[0].recipe
    if found.split not in first.evaluate.splits:
        raise RecipeError(
            what=f"{source}: {GRID}.split", got=found.split, wanted=f"one of {', '.join(first.evaluate.splits)}",
            try_=f"evaluate.splits=[{found.split}]",
        )  # fmt: skip
    return Experiment(str(tree.get("name", "")), Path(first.runs), found, tuple(cells))


def _check(found: Grid, what: str) -> None:
    for name in ("sizes", "fractions", "seeds"):
        if not getattr(found, name):
            try_ = "see configs/recipe/scaling/backbone.yaml"
            raise RecipeError(what=f"{what}: {GRID}.{name}", got="nothing", wanted="at least one", try_=try_)
        if name != "sizes" and len(set(getattr(found, name))) < len(getattr(found, name)):
            raise RecipeError(what=f"{what}: {GRID}.{name}", got=getattr(found, name), wanted="each once", try_="leave one out")
    if found.transfer not in TRANSFERS:
        wanted = " or ".join(TRANSFERS)
        raise RecipeError(what=f"{what}: {GRID}.transfer", got=repr(found.transfer), wanted=wanted, try_=f"{GRID}.transfer=none")
    if found.last < 1:
        raise RecipeError(what=f"{what}: {GRID}.last", got=found.last, wanted="at least 1", try_=f"{GRID}.last=20")


def _sized(tree: Mapping[str, Any], change: Any) -> dict[str, Any]:
    return over(tree, {"student": change} if isinstance(change, str) else dict(change or {}))


def _carried(found: Grid, base: Mapping[str, Any], what: str) -> dict[str, Any]:
    """What makes the first size the one whose learning rate the others take."""
    if found.transfer == "none":
        return {}
    student: Any = build(base, what=what).student
    if not hasattr(student, "parametrisation"):
        got = f"a student of kind {student.kind}, which has no parametrisation"
        raise RecipeError(what=f"{what}: {GRID}.transfer", got=got, wanted="vit or pointbert", try_=f"{GRID}.transfer=none")
    return {"student": {"parametrisation": "mup", "base_dim": student.dim, "base_heads": student.heads}}


def _check_widths(cells: Sequence[Cell], what: str) -> None:
    """Refuse students of which more than the width grows inside a block: nothing is known of their rates."""
    students: dict[str, Any] = {cell.size: cell.recipe.student for cell in cells}
    first = students[cells[0].size]
    for size, student in students.items():
        if abs(student.hidden * first.dim / (student.dim * first.hidden) - 1) > 0.01 or student.depth != first.depth:
            raise RecipeError(
                what=f"{what}: {GRID}.transfer", got=f"hidden {student.hidden} of {student.dim}, depth {student.depth} at {size}",
                wanted=f"hidden that grows with dim as {first.hidden} of {first.dim}, depth {first.depth}", try_=f"{GRID}.transfer=none",
            )  # fmt: skip


def _cell(tree: Mapping[str, Any], size: str, objective: str, fraction: float, seed: int, what: str) -> Cell:
    name, runs = str(tree.get("name", "")), str(tree.get("runs", Recipe(name="").runs))
    if objective:
        tree = over(tree, {"objective": objective})
    label = objective or str(tree.get("objective", {}).get("kind"))
    folder = "-".join([size, label.replace("/", "."), *([f"f{fraction:g}"] if fraction != 1 else []), f"s{seed}"])
    own = {"name": f"{name}/{folder}", "runs": str(Path(runs) / name), "fraction": fraction, "seed": seed}
    return Cell(size, label, fraction, seed, build(over(tree, own), what=what))
