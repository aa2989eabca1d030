"""Whether the node that a task woke up on has what the site promised."""

from __future__ import annotations

from pathlib import Path

from mrdist.errors import CUDA_BUILD, MrdistError
from mrdist.recipe import load


class NodeError(MrdistError):
    """A node, or what is installed there, is not what the site file says."""


def check(run: Path, gpus: int, *, rank: int, size: int, host: str) -> None:
    """Refuse to train on fewer GPUs than were asked for: `device=auto` would take cores instead, without a word.

    Args:
        gpus: that the node must have; a recipe with `device=cpu` needs none.

    Raises:
        NodeError: torch sees fewer; it stands in why.txt of the run by then.
    """
    if not gpus or load(run).device == "cpu":
        return
    import torch

    from mrdist.ranks import Ranks
    from mrdist.training import why

    if torch.cuda.device_count() >= gpus:
        return
    built = torch.version.cuda or torch.version.hip
    remedy = "nvidia-smi and mrdist doctor on that node" if built else f"{CUDA_BUILD}, the CUDA build"
    trouble = NodeError(
        what=f"node {host}",
        got=f"{torch.cuda.device_count()} GPUs with torch {torch.__version__}",
        wanted=f"{gpus}, as the site says",
        try_=remedy,
    )
    ranks = Ranks(rank, size)
    with ranks.clock.at("start"):
        why.append(run / "why.txt", why.failure(trouble, ranks, 0, []))
    raise trouble
