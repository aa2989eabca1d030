"""What every student is: points in, embedding and tokens out; and what every student's config has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mrdist.errors import CheckpointError, RecipeError
from mrdist.kinds import Part
from mrdist.students.scale import STANDARD, Scale

if TYPE_CHECKING:
    from mrdist.recipe import Recipe

NORMS = ("layer", "batch")
PARAMETRISATIONS = ("standard", "mup")


class Features(NamedTuple):
    """What a student makes of a batch of clouds. A NamedTuple, because ZeRO-3 looks into what `forward` returns."""

    embedding: Tensor  # [B, E], in the teacher's space, not normalised
    tokens: Tensor  # [B, G, D], one per group of points that was kept, after the last block
    centres: Tensor  # [B, G, 3], where those groups are


class Student(nn.Module):
    """A 3D backbone: knows no loss and no process group.

    `blocks` is its stack, in order: what layer-wise learning rates count. Parameters of one number have shape [1].
    """

    width: int
    """E: length of an embedding, the same as the teacher's."""
    blocks: nn.ModuleList

    def forward(self, xyz: Tensor, rgb: Tensor, keys: Tensor | None = None) -> Features:
        """Embed clouds; no row sees another row.

        Args:
            xyz: [B, N, 3], z up, about the unit sphere.
            rgb: [B, N, 3], sRGB in 0..1.
            keys: [B] int64, one per row: decide in training which groups and which residual branches that row drops,
                whatever the batch, the rank and torch's own generators. None, or evaluation: nothing is dropped.

        Raises:
            DataError: fewer points than the student has groups.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class StudentConfig(Part):
    """What students that group points and put a transformer on the groups have in common."""

    dim: int = 192  # channels of a token
    depth: int = 12  # blocks
    heads: int = 3
    hidden: int = 512  # channels inside a block's MLP
    groups: int = 512
    group_size: int = 64  # points per group
    norm: str = "layer"  # of points: layer | batch (for released weights; its result depends on the number of ranks)
    patch_dropout: float = 0.0  # share of groups a row leaves out in training
    drop_path: float = 0.0  # chance that a row skips a residual branch of the last block; falls linearly to 0 at the first
    weights: str = ""  # a file that Uni3D or OpenShape released, to begin with; needs its size and norm=batch
    recompute: bool = False  # keep no activations of groups and blocks for backward: less memory, a third more time
    parametrisation: str = "standard"  # standard | mup: what suits `base_dim` (learning rate, weight decay) suits every `dim`
    base_dim: int = 0  # mup: the dim for which they were chosen
    base_heads: int = 0  # mup: heads there; 0 = heads of as many channels as here

    def build(self, width: int, *, seed: int) -> Student:
        """The student with embeddings of length `width`. Equal seeds, equal weights, on every rank; torch's generators stay as they are.

        Raises:
            RecipeError: fields that do not fit together.
            CheckpointError: `weights` is no such file, or of another student.
        """
        self.fits()
        with seeded(seed):
            student = self.student(width)
        # On the meta device there are no numbers: whoever builds there counts, or has others in hand.
        if self.weights and not next(student.parameters()).is_meta:
            from mrdist.students.released import begin

            begin(student, self)
        return student

    def student(self, width: int) -> Student:
        """A student with weights from torch's generators as they stand."""
        raise NotImplementedError

    def check(self, recipe: Recipe) -> None:
        """Refuse what cannot run, before anything starts."""
        self.fits()
        needed = self.points()
        if recipe.sample < needed:
            wanted = f"at least {needed}, for the student's groups and their members"
            raise RecipeError(what="sample", got=recipe.sample, wanted=wanted, try_=f"sample={needed}, or fewer student.groups")

    def look(self) -> None:
        """Refuse weights to begin with that are not there.

        Raises:
            CheckpointError: there is no such file.
        """
        if self.weights and not Path(self.weights).is_file():
            what, wanted = f"student.weights={self.weights}", "a file that Uni3D or OpenShape released"
            raise CheckpointError(what=what, got="no such file", wanted=wanted, try_="an absolute path")

    @property
    def scale(self) -> Scale:
        """How first weights, rates and attention follow the width."""
        return Scale.mup(self.dim, self.heads, self.base_dim, self.base_heads) if self.parametrisation == "mup" else STANDARD

    def points(self) -> int:
        """The fewest points per cloud that can be grouped."""
        return self.groups

    def fits(self) -> None:
        """Refuse fields that contradict one another."""
        for name in ("dim", "depth", "heads", "hidden", "groups", "group_size"):
            if getattr(self, name) < 1:
                raise _refused(name, getattr(self, name), "at least 1", f"student.{name}=1")
        if self.dim % self.heads:
            raise _refused("heads", self.heads, f"a divisor of dim={self.dim}", f"student.heads={max(1, self.dim // 64)}")
        if self.norm not in NORMS:
            raise _refused("norm", repr(self.norm), " or ".join(NORMS), "student.norm=layer")
        if self.parametrisation not in PARAMETRISATIONS:
            wanted = " or ".join(PARAMETRISATIONS)
            raise _refused("parametrisation", repr(self.parametrisation), wanted, "student.parametrisation=standard")
        if self.parametrisation == "mup":
            self._can_scale()
        for name in ("patch_dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise _refused(name, getattr(self, name), "a share from 0 to below 1", f"student.{name}=0")

    def _can_scale(self) -> None:
        if self.base_dim < 1:
            raise _refused("base_dim", self.base_dim, "the dim for which optim.lr was chosen", f"student.base_dim={self.dim}")
        if self.base_heads and self.base_dim % self.base_heads:
            wanted = f"a divisor of base_dim={self.base_dim}, or 0"
            raise _refused("base_heads", self.base_heads, wanted, "student.base_heads=0")
        if self.weights:
            # Released numbers were learnt in the standard parametrisation: in another, attention would mean something else.
            raise _refused("weights", self.weights, "none, where parametrisation=mup", "student.parametrisation=standard")


def blank(student: Part) -> Part:
    """The same student without `weights` to begin with: for those who have its numbers already, or tell others of it."""
    return replace(student, weights="") if isinstance(student, StudentConfig) else student


def _refused(name: str, got: object, wanted: str, try_: str) -> RecipeError:
    return RecipeError(what=f"student.{name}", got=got, wanted=wanted, try_=try_)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's generators start from `seed` inside, and afterwards go on as if nothing had happened."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        yield
