"""Weights that others released: Uni3D's and OpenShape's Point-BERT files, read strictly and without running what is in them.

Family and size are recognised from names and shapes. Every tensor of a file is used, or is known to be used by nobody, or is an error.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from mrdist.errors import CheckpointError
from mrdist.kinds import kind
from mrdist.presets import shipped
from mrdist.shapes import AXES
from mrdist.students.base import Student, StudentConfig
from mrdist.students.families import OPENSHAPE, UNI3D, Family

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Released:
    """A file whose tensors are all accounted for; none is copied before it is asked for."""

    family: Family
    size: str
    config: StudentConfig
    width: int
    parts: Mapping[str, tuple[Tensor, ...]]  # of the file, by our name; several are to be stacked
    shapes: Shapes  # ours

    def tensor(self, name: str, *, upright: bool = False) -> Tensor:
        """The student's tensor of that name: float32, counters int64.

        Args:
            upright: for points with z up, as `Points` has them, instead of those that the family saw: the same features, because
                what sees coordinates is linear in them, and groups stay the same when a cloud is turned.
        """
        wanted = torch.float32 if self.parts[name][0].is_floating_point() else torch.int64
        value = torch.cat([part.reshape(-1).to(wanted) for part in self.parts[name]]).view(self.shapes[name])
        turn = torch.from_numpy(AXES[self.family.axis].copy()).T
        for first in self.family.places.get(name, ()) if upright else ():
            value[:, first : first + 3] = value[:, first : first + 3] @ turn
        return value


class _Known(NamedTuple):
    """Tensors whose family and size are known, by the family's names."""

    family: Family
    size: str
    config: StudentConfig
    named: Mapping[str, Tensor]


def read(file: str | Path) -> Released:
    """What a released file holds. No pickle in it is executed.

    Args:
        file: .safetensors, or what `torch.save` wrote: a state dict, or one under "module" (DeepSpeed, Uni3D) or "state_dict"
            (OpenShape).

    Raises:
        CheckpointError: it cannot be read so, or is neither family's, or of an unknown size; or a tensor is missing, unknown or
            of another shape.
    """
    return recognised(_loaded(file), file)


def recognised(state: Mapping[str, Tensor], what: object) -> Released:
    """What a state dict is; tensors may be on the meta device.

    Raises:
        CheckpointError: as `read`.
    """
    known = _known(state, what)
    with torch.device("meta"):
        student = known.config.build(known.family.width, seed=0)
    return _accounted(known, student, what)


def begin(student: Student, config: StudentConfig) -> None:
    """Give a student that is to be trained on points with z up the numbers of the file `config.weights`.

    A parameter that was born in shards (ZeRO-3) stays as it is: the whole student, which the first rank builds besides, hands it out.

    Raises:
        CheckpointError: as `read`; or the student is another one than the file's.
    """
    found = _known(_loaded(config.weights), config.weights)
    # What may differ has no say in what the numbers mean.
    free = ("groups", "group_size", "radius", "start", "patch_dropout", "drop_path", "recompute", "weights")
    given, wanted = ({n: v for n, v in vars(c).items() if n not in free} for c in (config, found.config))
    if given != wanted:
        other = [f"{n}={given.get(n)}" for n in given.keys() | wanted.keys() if given.get(n) != wanted.get(n)]
        try_ = f"student={found.size} student.norm={wanted['norm']}"
        raise CheckpointError(what=config.weights, got=f"a student with {', '.join(sorted(other))}", wanted=found.size, try_=try_)
    if student.width != found.family.width:
        teacher = " ".join(found.family.teacher)
        raise CheckpointError(
            what=config.weights, got=f"embeddings of width {student.width} asked for", wanted=f"{found.family.width}, of {teacher}",
            try_=f"teacher=clip teacher.model={found.family.teacher[0]}",
        )  # fmt: skip
    released = _accounted(found, student, config.weights)
    with torch.no_grad():
        for name, held in student.state_dict(keep_vars=True).items():
            if tuple(held.shape) == released.shapes[name]:
                held.copy_(released.tensor(name, upright=True))


def differences(found: Shapes, wanted: Shapes) -> str:
    """The first three ways in which tensors are not those that are wanted; empty if they are."""
    wrong = [f"no {name}" for name in wanted if name not in found]
    wrong += [f"an unknown {name}" for name in found if name not in wanted]
    wrong += [f"{n} of shape {list(found[n])}, not {list(wanted[n])}" for n in wanted if n in found and found[n] != wanted[n]]
    return ", ".join(wrong[:3]) + (f", and {len(wrong) - 3} more" if len(wrong) > 3 else "")


def _loaded(file: str | Path) -> dict[str, Tensor]:
    """The state dict in a file."""
    if not Path(file).is_file():
        raise _refused(file, "no such file")
    try:
        if Path(file).suffix == ".safetensors":
            tree: Any = load_file(file)
        else:
            tree = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as wrong:  # whatever a foreign file makes the libraries say
        said = " ".join(str(wrong).split())[:200] or type(wrong).__name__
        try_ = "if you trust it: save the state dict in it alone, by torch.save, where it was made"
        raise CheckpointError(what=file, got=said, wanted="tensors that can be read without running code", try_=try_) from None
    for inner in ("module", "state_dict"):
        if isinstance(tree, Mapping) and isinstance(tree.get(inner), Mapping):
            tree = tree[inner]
            break
    strange = [repr(tree)[:40]] if not isinstance(tree, Mapping) else [str(n)[:40] for n, v in tree.items() if not isinstance(v, Tensor)]
    if strange:
        raise _refused(file, f"{strange[0]}, which is no tensor")
    return {str(name): value for name, value in tree.items()}


def _known(state: Mapping[str, Tensor], what: object) -> _Known:
    """Whose tensors they are, and of which size."""
    plain = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    family = OPENSHAPE if any(name.startswith("ppat.") for name in plain) else UNI3D
    named = {name.removeprefix(family.prefix): tensor for name, tensor in plain.items()}
    if len(named) < len(state):
        raise _refused(what, "two tensors of one name")
    size, config = _sized(family, {name: tuple(tensor.shape) for name, tensor in named.items()}, what)
    return _Known(family, size, config, named)


def _accounted(known: _Known, student: Student, what: object) -> Released:
    """Every tensor of the file and of the student has its place."""
    family, size, _, named = known
    ours = student.state_dict(keep_vars=True)
    shapes = {name: _shape(value) for name, value in ours.items()}
    theirs = {name: family.theirs(name, named) for name in ours}
    wanted = {part: (shape[0] // len(theirs[name]), *shape[1:]) if len(theirs[name]) > 1 else shape
              for name, shape in shapes.items() for part in theirs[name]}  # fmt: skip
    found = {n: _flat(tuple(t.shape), wanted.get(n, ())) for n, t in named.items() if not n.startswith(family.unused or ("\0",))}
    if wrong := differences(found, wanted):
        raise _refused(what, wrong, f"the tensors of {family.name} ({size})")
    parts = {name: tuple(named[part] for part in names) for name, names in theirs.items()}
    for name, tensors in parts.items():
        if any(tensor.is_floating_point() != ours[name].is_floating_point() for tensor in tensors):
            raise _refused(what, f"{theirs[name][0]} of type {tensors[0].dtype}")
    return Released(family, size, known.config, family.width, parts, shapes)


def _sized(family: Family, shapes: Shapes, what: object) -> tuple[str, StudentConfig]:
    """Which of the family's sizes has these shapes."""
    last, first, second, norm = (
        family.theirs(f"{name}.weight", shapes) for name in ("project", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.0.mlp.norm")
    )
    try:
        width, dim = shapes[last[0]]
        hidden = shapes[second[0]][1]
        gated = len(first) == 2 or shapes[first[0]][0] == 2 * hidden
    except KeyError as missing:
        raise _refused(what, f"no {missing.args[0]}") from None
    except (ValueError, IndexError):
        raise _refused(what, f"{last[0]} or {second[0]} that is no matrix") from None
    numbers = re.compile(re.escape(family.beginnings["blocks."]) + r"(\d+)\.")
    depth = 1 + max(int(number[1]) for name in shapes if (number := numbers.match(name)))
    given = {"dim": dim, "depth": depth, "hidden": hidden, "gated": gated, "inner_norm": norm[0] in shapes}
    known = {size: preset(size) for size in family.sizes}
    for size, config in known.items():
        if width == family.width and all(getattr(config, name, False) == value for name, value in given.items()):
            return size, replace(config, **family.settings)
    facts = ", ".join(f"{name} {value}" for name, value in given.items())
    each = ", ".join(f"{size} {config.dim}/{config.depth}/{config.hidden}" for size, config in known.items())
    raise _refused(what, f"a {family.name} of {facts}, width {width}", f"dim/depth/hidden of {each}; width {family.width}")


@cache
def preset(size: str) -> StudentConfig:
    """The student that `student=SIZE` builds."""
    values = cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(shipped() / "student" / f"{size}.yaml")))
    return cast(StudentConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind("students", values["kind"])), values)))


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """The whole shape, of one that was born in shards too."""
    return tuple(getattr(tensor, "ds_shape", tensor.shape))


def _flat(shape: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution over one place is a linear layer: its last axes, of length 1, go."""
    return wanted if wanted and shape[: len(wanted)] == wanted and set(shape[len(wanted) :]) <= {1} else shape


def _refused(what: object, got: str, wanted: str = "weights of Uni3D, or of OpenShape's Point-BERT") -> CheckpointError:
    return CheckpointError(what=what, got=got, wanted=wanted, try_="the file as its authors released it")
