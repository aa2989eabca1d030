"""What can go wrong, and what to do about it."""

from __future__ import annotations

INSTALL = "./install.sh '.[cluster]'"
"""What brings the packages that not every installation has; in the checkout."""

CUDA_BUILD = f"TORCH_BACKEND=cu126 {INSTALL}"
"""The same with a torch for GPUs, on a machine that has none."""


class MrdistError(Exception):
    """An error the user can fix; every message says what, got, wanted and what to try.

    Example:
        >>> raise DataError(what="chair.glb", got="0 faces", wanted="at least 1 face", try_="re-export the mesh")
        Traceback (most recent call last):
        mrdist.errors.DataError: chair.glb: got 0 faces, wanted at least 1 face. Try: re-export the mesh
    """

    exit_code = 1

    def __init__(self, *, what: object, got: object, wanted: object, try_: str) -> None:
        self.what, self.got, self.wanted, self.try_ = str(what), str(got), str(wanted), try_
        super().__init__(f"{self.what}: got {self.got}, wanted {self.wanted}. Try: {self.try_}")

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders (workers, ranks); keyword-only arguments need help.
        return _rebuild, (type(self), self.what, self.got, self.wanted, self.try_)


def _rebuild(kind: type[MrdistError], what: str, got: str, wanted: str, try_: str) -> MrdistError:
    return kind(what=what, got=got, wanted=wanted, try_=try_)


INTERFACES = (
    "say which network interface the nodes share: export GLOO_SOCKET_IFNAME=NAME NCCL_SOCKET_IFNAME=NAME (names: ip -brief address); "
    "export NCCL_DEBUG=INFO says which one was taken. The place for it is `setup:` of the site file, or slurm/env.sh"
)
"""What to do where ranks come to their meeting point, and do not hear from one another."""


class RecipeError(MrdistError):
    """A recipe, or a word of the command line, does not mean anything, or contradicts another."""


class DataError(MrdistError):
    """A file, a catalogue or a shard is not what it should be."""


class AxisError(DataError):
    """Up is not where it was said to be."""


class TeacherError(MrdistError):
    """A teacher is missing, or cannot supply what an objective needs."""


class CheckpointError(MrdistError):
    """A checkpoint is missing, incomplete, or belongs to something else."""


class RanksError(MrdistError):
    """The processes that train together do not agree, or did not come up."""
