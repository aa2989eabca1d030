"""How a block is cut into tiles on which GPU: the largest that compile without spilling registers.

On sm_90 a program of 4 warps holds its tile in at most 255 registers a thread and its stages in at most 97 KB: two programs share a
multiprocessor, and what one does after its products runs under the products of the other. `benchmarks/kernels_compile.py` prints what
each cut needs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Cut(NamedTuple):
    """The size of a tile and how one program works on it."""

    rows: int  # a power of two, at least 16
    columns: int  # likewise
    pieces: int  # of as many columns, worked on one after the other once the products are made
    depth: int  # of the inner dimension, at a time
    warps: int  # of 32 threads
    stages: int  # of `depth` each: one computed, the others on their way
    descriptors: bool  # operands come through the copy engine


HOPPER_FULL = Cut(64, 64, 4, 64, 4, 4, True)
"""Three products, and more to do with them than registers have room for."""

AMPERE = Cut(128, 64, 4, 32, 8, 4, False)
"""36 to 60 KB: also for the smaller shared memory of sm_86, sm_89 and sm_120."""


def cut(
    capability: tuple[int, int], dtype: torch.dtype, *, contrast: bool, teachers: int, gradient: bool = False, more: bool = False
) -> Cut:
    """What suits a device of this compute capability.

    Args:
        more: whether teachers' gradients or those of scales are wanted.
    """
    hopper = capability[0] == 9
    full = gradient and (more or (contrast and teachers == 2))
    if dtype == torch.float32:
        return Cut(64, 64, 4, 16, 8, 2, hopper)
    if not hopper:
        return AMPERE._replace(pieces=8) if full else AMPERE
    if teachers == 0:
        return Cut(128, 128, 4, 64, 4, 3, True)
    if teachers == 1:
        return Cut(64, 128, 8 if full else 4, 64, 4, 3, True)
    return HOPPER_FULL if full else Cut(64, 128, 8 if gradient else 4, 64, 4, 3, True)
