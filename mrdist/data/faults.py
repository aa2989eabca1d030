"""Whose fault it is that a shape cannot be read: its own, which costs this shape alone, or the machine's, which must cost none for good."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from mrdist.data.sandbox import Outcome
from mrdist.errors import DataError
from mrdist.shapes import Shape

NO_FILE = "no such file"

_OF_THE_MACHINE = frozenset(
    {errno.EIO, errno.ENOMEM, errno.ENFILE}
    | {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # of a disk that is written to
    | {errno.ESTALE, errno.EREMOTEIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH}  # of a file server
)


class MachineFault(OSError):
    """This machine cannot read, now, what may be there and well: to be tried again, here or on another one."""

    def told(self, folder: Path) -> DataError:
        """The same for whoever sits at this machine, which was at work on files below `folder`."""
        return DataError(
            what=f"{folder} on {platform.node()}",
            got=self,
            wanted="files that this machine can read, and room for its own",
            try_="see to its mounts, its disk and its memory, then the same again: only what is missing is done",
        )


def must_be_its_own(wrong: Exception) -> None:
    """What a file made go wrong must be the fault of that file.

    Raises:
        MachineFault: it is not; says the same.
    """
    if isinstance(wrong, MachineFault):
        raise wrong
    if isinstance(wrong, OSError) and wrong.errno in _OF_THE_MACHINE:
        raise MachineFault(str(wrong)) from None


def must_see(root: Path) -> None:
    """To be asked before and after files below `root` are read.

    Raises:
        MachineFault: it is no folder that can be read; or an empty one, as a mount point is where nothing is mounted.
    """
    try:
        with os.scandir(root) as inside:
            empty = next(inside, None) is None
    except OSError as wrong:
        raise MachineFault(f"{platform.node()} does not see {root}: {wrong.strerror}") from None
    if empty:
        raise MachineFault(f"{platform.node()} sees nothing in {root}")


def must_be_theirs(shapes: Sequence[Shape], outcomes: Sequence[Outcome], root: Path) -> None:
    """What failed of a unit must be the fault of its shapes. A mesh that is missing alone is; not all meshes of a unit at once.

    Raises:
        MachineFault: it is not.
    """
    must_see(root)
    failed = [(shape, outcome.reason) for shape, outcome in zip(shapes, outcomes, strict=True) if not outcome.ok]
    missed = [_missed(shape, reason) for shape, reason in failed]
    for (shape, reason), lost in zip(failed, missed, strict=True):
        if reason.startswith(f"{MachineFault.__name__}: "):
            raise MachineFault(f"{platform.node()}, shape {shape.id}: {reason.partition(': ')[2]}")
        if lost and os.access(shape.mesh, os.R_OK):
            raise MachineFault(f"{platform.node()}: {shape.mesh} was not there, and is")
    if (
        len(shapes) > 1
        and len(failed) == len(shapes)
        and all(lost or not os.access(s.mesh, os.R_OK) for s, lost in zip(shapes, missed, strict=True))
    ):
        raise MachineFault(f"{platform.node()} can read none of {len(shapes)} meshes: {shapes[0].mesh} ...")


def _missed(shape: Shape, reason: str) -> bool:
    return reason.startswith(f"{DataError.__name__}: {shape.mesh.name}: got {NO_FILE},")
