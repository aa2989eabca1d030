"""What tests of mrdist and of its plugins need: real ranks on one machine, small triplets."""

from __future__ import annotations

import multiprocessing as mp
import os
import queue
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mrdist.errors import RanksError
from mrdist.ranks import Ranks
from mrdist.shapes import TripletBatch

_START = 600.0  # seconds, for what only a busy machine makes slow


def on_ranks(size: int, work: Callable[..., Any], *arguments: Any, deadline: float = 300.0) -> list[Any]:
    """Run `work(ranks, *arguments)` in `size` real gloo processes; return what each returned, by rank.

    `work` and its arguments must be importable and picklable, as for any spawned process. Processes are forked from a server that
    has torch loaded, and meet in a file: no port to collide with.

    Args:
        deadline: seconds of silence that end it, counted from when all ranks have met: a busy machine may be slow to start them.

    Raises:
        RanksError: a rank failed (its traceback is in the message), or nobody finished for `deadline` seconds.
    """
    context = mp.get_context("forkserver")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # gloo ranks: DeepSpeed need not look for a GPU
    # Whoever has imported our engine for it will use it; importing it once for all ranks takes seconds off every test.
    context.set_forkserver_preload(["mrdist.testing", *(["deepspeed"] if "mrdist.training.zero" in sys.modules else [])])
    with tempfile.TemporaryDirectory() as folder:
        mail, received = context.Queue(), context.Event()
        processes = [
            context.Process(target=_member, args=(rank, size, folder, mail, received, work, arguments), daemon=True) for rank in range(size)
        ]
        for process in processes:
            process.start()
        try:
            held: dict[int, Any] = {}
            met, patience = 0, _START
            while len(held) < size:
                rank, news, value = mail.get(timeout=patience)
                if news == "failed":
                    raise RanksError(what=f"rank {rank} of {size}", got=value, wanted="a result", try_="read its traceback")
                if news == "met":
                    met += 1
                else:
                    held[rank] = value
                patience = deadline if met == size else _START
        except queue.Empty:
            missing = sorted(set(range(size)) - set(held))
            raise RanksError(
                what=f"ranks {missing} of {size}",
                got=f"silence for {patience:g} s",
                wanted="a result",
                try_="look for a collective that not every rank calls",
            ) from None
        finally:
            received.set()
            for process in processes:
                process.join(5 if len(held) == size else 0)
                if process.is_alive():
                    process.kill()
    return [held[rank] for rank in range(size)]


def _member(rank: int, size: int, folder: str, mail: Any, received: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    try:
        dist.init_process_group("gloo", init_method=f"file://{Path(folder) / 'meeting'}", rank=rank, world_size=size)
        ranks = Ranks(rank, size, dist.group.WORLD)
        mail.put((rank, "met", None))
        mail.put((rank, "done", work(ranks, *arguments)))
        ranks.wait()
        dist.destroy_process_group()
        received.wait(_START)  # tensors lie in memory that this process shares: they go when it goes
    except BaseException:
        mail.put((rank, "failed", traceback.format_exc()))


def tiny_triplets(rows: int = 8, *, width: int = 6, points: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> TripletBatch:
    """A global batch with uneven captions and one missing image; the same for every caller."""
    random = torch.Generator().manual_seed(seed)

    def unit(present: torch.Tensor) -> torch.Tensor:
        held = torch.nn.functional.normalize(torch.randn(rows, width, generator=random, dtype=torch.float64), dim=-1)
        return (held * present[:, None]).to(dtype)

    has_text = torch.arange(rows) % 8 < 3
    has_text |= torch.arange(rows) % 3 == 2
    has_image = torch.arange(rows) != 1
    xyz = torch.randn(rows, points, 3, generator=random, dtype=torch.float64).to(dtype)
    rgb = torch.rand(rows, points, 3, generator=random, dtype=torch.float64).to(dtype)
    return TripletBatch(
        xyz, rgb, unit(has_image), unit(has_text), has_image, has_text,
        keys=torch.arange(rows, dtype=torch.int64) + 1000 * seed,
        ids=tuple(f"shape-{i}" for i in range(rows)),
        categories=tuple("abcd"[i % 4] for i in range(rows)),
    )  # fmt: skip


def share(batch: TripletBatch, ranks: Ranks) -> TripletBatch:
    """My rows of a global batch."""
    rows = len(batch) // ranks.size
    return batch.rows(slice(ranks.rank * rows, (ranks.rank + 1) * rows))
