"""The relation loss on a GPU, in Triton: a block's sums (`sums`) and its gradient (`gradient`), its cosines never in memory.

For sm_80 and later; sm_90 reads through tensor descriptors. `tile` says what is computed, `forward` and `backward` are the kernels,
`products` what they share, `cut` how large a tile is. Nothing here imports triton before it is needed.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

from mrdist.relation.kernels.cut import Cut
from mrdist.relation.kernels.tile import Comparison, Contrast, Gradient, Margins, Sums, Want, gradient, sums

__all__ = ["Comparison", "Contrast", "Cut", "Gradient", "Margins", "Sums", "Want", "available", "gradient", "sums"]


def available(device: torch.device) -> bool:
    """Whether the kernels run there: a CUDA device of compute capability 8.0 or more, and triton is installed."""
    if device.type != "cuda" or not torch.cuda.is_available() or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
