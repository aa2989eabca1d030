"""What an encoder expects of points, and whose space its embeddings lie in: written beside its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrdist import __version__
from mrdist.errors import CheckpointError, MrdistError
from mrdist.kinds import Part, kind
from mrdist.shapes import AXES, GREY

FORMAT = 1
BOX, MEAN = SCALES = ("unit sphere, box centred", "unit sphere, mean centred")
"""Where the middle of a cloud is: of its box, as every `Points` has it, or the mean of its points, as released weights want it."""

COLOUR = f"sRGB 0..1; {GREY} where there is none"
"""What every `Points` keeps; written down for those who feed a student without them."""


@dataclass(frozen=True)
class Contract:
    """What an encoder expects, and whose space its embeddings lie in."""

    student: Part
    width: int  # E, the length of an embedding
    points: int  # per cloud
    teacher: Part
    teacher_fingerprint: str  # empty: nobody recorded it (released weights)
    trained: Mapping[str, str] = field(default_factory=dict)  # on what, how long, with which result: for the card
    mrdist: str = __version__
    axis: str = "z"  # which way the student sees a cloud: a name of `shapes.AXES`
    scale: str = BOX  # one of `SCALES`

    def seen(self, xyz: NDArray[np.float32]) -> NDArray[np.float32]:
        """A cloud `[N, 3]` with z up, inside the unit sphere, as the student wants it."""
        if self.scale == MEAN:
            xyz = xyz - xyz.mean(0)
            xyz = xyz / np.linalg.norm(xyz, axis=1).max()
        return xyz if self.axis == "z" else xyz @ AXES[self.axis]

    def plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {"format": FORMAT, "colour": COLOUR, **asdict(self)}

    @classmethod
    def read(cls, tree: Mapping[str, Any], what: str) -> Contract:
        """The contract that `plain` wrote.

        Raises:
            CheckpointError: a field is missing or of another type, a kind is unknown, or the rules for points are others.
        """
        try:
            axis, scale = tree["axis"], tree["scale"]
            if tree["format"] != FORMAT or tree["colour"] != COLOUR or axis not in AXES or scale not in SCALES:
                raise ValueError("an encoder with other rules for its points")
            parts = {name: part(f"{name}s", tree[name]) for name in ("student", "teacher")}
            trained = {str(key): str(value) for key, value in tree["trained"].items()}
            width, points = int(tree["width"]), int(tree["points"])
            space = parts["teacher"], str(tree["teacher_fingerprint"])
            return cls(parts["student"], width, points, *space, trained, str(tree["mrdist"]), axis, scale)
        except KeyError as wrong:
            raise damaged(what, f"no {wrong.args[0]!r}") from None
        except (MrdistError, ValueError, TypeError, AttributeError) as wrong:
            raise damaged(what, str(wrong)) from None


def written(path: Path) -> bool:
    """Whether a file holds a contract: other models have files of that name, too."""
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(held, dict) and {"student", "teacher", "sha256"} <= held.keys()


def part(group: str, tree: Mapping[str, Any]) -> Part:
    """The config that `tree` writes out; its fields checked one by one, since the file may be anybody's."""
    found = kind(group, str(tree["kind"]))
    blank = asdict(found())
    given: dict[str, Any] = {}
    for name, value in tree.items():
        default = blank.get(name)
        if isinstance(default, tuple) and isinstance(value, list):
            value = tuple(value)
        elif isinstance(default, float) and isinstance(value, int):
            value = float(value)
        if type(value) is not type(default):
            raise ValueError(f"{name}: {value!r} in the {group.removesuffix('s')} of kind {blank['kind']}")
        given[name] = value
    return found(**given)


def damaged(what: str, got: str) -> CheckpointError:
    """The error for a file that is not what `Encoder.save` wrote."""
    return CheckpointError(what=what, got=got, wanted="an encoder that `mrdist export` wrote", try_="export it again")
