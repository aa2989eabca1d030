"""The whole experiment as one immutable tree: defaults <- YAML <- key=value.

Only this file and `presets.py` know OmegaConf; the rest sees frozen dataclasses.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mrdist.errors import RecipeError
from mrdist.kinds import Part, kind
from mrdist.presets import GROUPS, layers, presets

Shaped = TypeVar("Shaped")


@dataclass(frozen=True)
class Views:
    """The pictures a teacher sees of every shape."""

    ring: str = "openshape12"  # where the cameras stand: see mrdist.data.render.RINGS
    pixels: int = 224  # width and height
    supersampling: int = 2  # samples per pixel and axis
    fov: float = 43.0  # degrees; the camera moves back until the unit sphere fits
    background: int = 217  # grey level 0..255: light, but not white, so that white objects show
    quality: int = 95  # JPEG quality of the stored views
    turn: float = 0.0  # degrees by which the whole ring of cameras is turned about the up axis


@dataclass(frozen=True)
class Limits:
    """What one mesh may cost before it is skipped by name."""

    seconds: float = 30.0
    memory_mb: int = 8192
    file_mb: int = 512
    faces: int = 6_000_000
    texture_pixels: int = 1024  # longer sides are scaled down


@dataclass(frozen=True)
class Pools:
    """Who works beside the ranks on a cluster: least and most actors of a kind, and what each takes. Only a cluster looks at it."""

    renderers: tuple[int, int] = (1, 64)
    renderer_cores: int = 1  # each draws so many shapes at once
    teachers: tuple[int, int] = (1, 8)
    teacher_cores: float = 1.0
    teacher_gpus: float = 1.0  # a share below 1 leaves the rest to others; where there are no GPUs teachers work on cores
    trainer_cores: int = 1  # per rank, beside its GPU, if there are GPUs
    ahead: int = 2  # units that may wait for each teacher: what bounds the memory that waits
    retries: int = 2  # times that a unit is begun again after its renderer died, before its shapes are tried one by one
    restarts: int = 20  # times that ranks are started again, without a step in between, before the job gives up
    regroup: float = 300.0  # seconds that more ranks must save before all of them are started again for it: a start costs about a minute


@dataclass(frozen=True)
class Augment:
    """What is done to a cloud before the student sees it (Uni3D's recipe); all seeded by (run, shape, step)."""

    scale: tuple[float, float] = (0.8, 1.25)
    shift: float = 0.1
    tilt: float = 0.06  # standard deviation of small rotations, radians; clipped at three of them
    yaw: bool = True  # any rotation about the up axis
    drop_colour: float = 0.5  # chance that all points become neutral grey
    drop_points: float = 0.0  # largest share of points replaced by the first one (OpenShape: 0.875)


@dataclass(frozen=True)
class Optim:
    """AdamW with a cosine schedule."""

    lr: float = 1e-3
    final_lr: float = 0.0
    warmup: int = 100  # steps
    weight_decay: float = 0.1  # not on biases, norms, scales
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    clip: float = 5.0  # largest gradient norm; 0 = never clip
    layer_decay: float = 1.0  # lr of block k is lr * layer_decay ** (depth - k)
    ema: float = 0.0  # decay of a running mean of the student that is exported instead; 0 = none


GIVE_UP = 600.0
"""Seconds that a collective waits at least, however soon the watchdog speaks."""

MARGIN = 120.0
"""Seconds by which a collective gives up later than the watchdog speaks."""


@dataclass(frozen=True)
class Watch:
    """What is written while a run goes on, and how often (in steps; 0 = never)."""

    log_every: int = 10
    save_every: int = 500
    keep: int = 2  # checkpoints kept besides the best
    evaluate_every: int = 0  # zero-shot on the validation split; 0 = at the end only
    pictures_every: int = 500
    silence: float = 600.0  # seconds without a step after which every rank writes its stack, and a live run that nobody feeds ends
    shapes: bool = False  # write down which shapes every step trained on

    @property
    def deadline(self) -> float:
        """Seconds after which a collective that waits for a missing rank gives up."""
        # The watchdog must speak first, or the stacks are lost with the process. Its clock starts when Python comes to a place, that of a
        # collective when the work is queued, which on a GPU may be most of a step earlier; it looks every few seconds, and writes slowly.
        return max(self.silence, GIVE_UP) + MARGIN


@dataclass(frozen=True)
class Evaluate:
    """What is measured at the end."""

    splits: tuple[str, ...] = ("test",)
    templates: str = "shapes"  # prompt templates: see mrdist.evaluation.zeroshot.TEMPLATES
    batch: int = 64


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run computes. `batch` is the global batch: the width of every relation."""

    name: str = MISSING
    seed: int = 0
    steps: int = 1000
    batch: int = 256
    points: int = 10_000  # stored per shape
    sample: int = 10_000  # of them, given to the student
    fraction: float = 1.0  # of the training shapes that are trained on; smaller fractions are parts of larger ones
    redraw: int = 0  # epochs after which every shape is drawn and embedded again, its cameras turned; 0 = never
    live: bool = False  # train on what is there while others still prepare; otherwise everything is prepared first
    workers: int = 2  # processes that render, then threads that load, per rank
    device: str = "auto"  # auto | cpu | cuda
    runs: str = "runs"  # folder for run folders
    store: str = "store"  # folder for meshes, renders, teachers and triplets
    data: Part = field(default_factory=Part)
    views: Views = field(default_factory=Views)
    limits: Limits = field(default_factory=Limits)
    pools: Pools = field(default_factory=Pools)
    teacher: Part = field(default_factory=Part)
    student: Part = field(default_factory=Part)
    objective: Part = field(default_factory=Part)
    engine: Part = field(default_factory=Part)
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)
    watch: Watch = field(default_factory=Watch)
    evaluate: Evaluate = field(default_factory=Evaluate)

    @property
    def measured(self) -> tuple[str, ...]:
        """The splits that a run measures: at the end, and on its way there."""
        return tuple(dict.fromkeys([*self.evaluate.splits, *(["val"] if self.watch.evaluate_every else [])]))


def load(source: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: a name under `configs/recipe/` ("mrd/tiny"), a YAML file, or a run folder.
        changes: words `key=value`; dots are depth ("optim.lr=1e-4"); a group takes a preset ("student=small").

    Raises:
        RecipeError: an unknown name, key, kind or value; the message carries the nearest guess.
    """
    return build(layers(source, changes), what=str(source))


def build(tree: Mapping[str, Any], *, what: str = "recipe") -> Recipe:
    """A Recipe from a plain tree.

    Raises:
        RecipeError: a key, kind or value that does not fit.
    """
    parts: dict[str, Part] = {}
    for name, group in GROUPS.items():
        chosen = tree.get(name) or {}
        wanted = chosen.get("kind") if isinstance(chosen, Mapping) else None
        if not wanted:
            raise RecipeError(
                what=f"{what}: {name}",
                got="no kind",
                wanted=f"a kind of {name}",
                try_=f"{name}=PRESET, one of: {', '.join(presets(name)) or 'none shipped'}",
            )
        parts[name] = kind(group, str(wanted))()
    recipe = typed(replace(Recipe(name=""), **cast("dict[str, Any]", parts)), tree, what)
    _check(recipe, what)
    return recipe


def typed(shape: Shaped, tree: Mapping[str, Any], what: str) -> Shaped:
    """The frozen dataclass `shape` with the values of a plain tree in it.

    Raises:
        RecipeError: a key that it does not have, with the nearest one that it has, or a value of another type.
    """
    try:
        return cast(Shaped, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(shape), OmegaConf.create(dict(tree)))))
    except OmegaConfBaseException as wrong:
        raise _explain(wrong, tree, shape, what) from None


def _check(recipe: Recipe, what: str) -> None:
    for name in ("steps", "batch", "points", "sample"):
        if getattr(recipe, name) < 1:
            raise RecipeError(what=f"{what}: {name}", got=getattr(recipe, name), wanted="at least 1", try_=f"{name}=1")
    if not 0 < recipe.fraction <= 1:
        raise RecipeError(what=f"{what}: fraction", got=recipe.fraction, wanted="more than 0, at most 1", try_="fraction=0.1")
    if recipe.redraw < 0:
        raise RecipeError(what=f"{what}: redraw", got=recipe.redraw, wanted="0 (never) or a number of epochs", try_="redraw=1")
    if not recipe.name:
        raise RecipeError(what=f"{what}: name", got="nothing", wanted="a short name for the run folder", try_="name=my-run")
    if recipe.sample > recipe.points:
        raise RecipeError(
            what=f"{what}: sample", got=recipe.sample, wanted=f"at most points={recipe.points}", try_=f"sample={recipe.points}"
        )
    for part in (getattr(recipe, f.name) for f in fields(recipe)):
        check = getattr(part, "check", None)
        if check is not None:
            check(recipe)


def plain(recipe: Any) -> dict[str, Any]:
    """The tree as dicts, lists, numbers and strings: complete and in declared order."""
    return cast("dict[str, Any]", json.loads(json.dumps(asdict(recipe))))


def to_yaml(recipe: Recipe) -> str:
    """The resolved, complete, canonical text of a recipe; `load` of it gives the same recipe."""
    return OmegaConf.to_yaml(OmegaConf.create(plain(recipe)))


def fingerprint(*things: Any) -> str:
    """Twelve hex digits that name configurations: equal trees, equal names."""
    trees = [plain(t) if is_dataclass(t) and not isinstance(t, type) else t for t in things]
    return hashlib.sha256(json.dumps(trees, sort_keys=True).encode()).hexdigest()[:12]


def _explain(wrong: Exception, tree: Mapping[str, Any], shape: Any, what: str) -> RecipeError:
    """OmegaConf's complaint as one of ours: which key, what was wrong, the nearest right one."""
    stray = _stray(tree, shape, "")
    if stray is not None:
        key, near = stray
        return RecipeError(
            what=f"{what}: {key}",
            got="a key that does not exist",
            wanted="a key of the recipe",
            try_=f"did you mean {near!r}?" if near else "mrdist config show",
        )
    key = getattr(wrong, "full_key", None) or _first_wrong(tree, shape, "") or "value"
    return RecipeError(
        what=f"{what}: {key}", got=str(wrong).splitlines()[0], wanted="a value of the right type", try_=f"mrdist config explain {key}"
    )


def _first_wrong(tree: Mapping[str, Any], shape: Any, prefix: str) -> str:
    """The first key whose value the dataclass `shape` does not take: of tuples, and of sections, OmegaConf says only what is wrong."""
    for key, value in tree.items():
        below = getattr(shape, key)
        if isinstance(value, Mapping) and is_dataclass(below):
            if found := _first_wrong(value, below, f"{prefix}{key}."):
                return found
            continue
        if "${" in str(value):  # alone, it points to nothing
            continue
        try:
            OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(shape), OmegaConf.create({key: value})))
        except OmegaConfBaseException:
            return f"{prefix}{key}"
    return ""


def _stray(tree: Mapping[str, Any], shape: Any, prefix: str) -> tuple[str, str] | None:
    """The first key of `tree` that the dataclass `shape` does not have, with the nearest one that it has."""
    names = [f.name for f in fields(shape)]
    for key, value in tree.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            return f"{prefix}{key}", f"{prefix}{near[0]}" if near else ""
        below = getattr(shape, key)
        if isinstance(value, Mapping) and is_dataclass(below):
            found = _stray(value, below, f"{prefix}{key}.")
            if found is not None:
                return found
    return None
