"""From a global order to my rows: which shapes a step trains on, and how they look this time."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from itertools import count

import numpy as np
import torch

from mrdist.data.augment import augment
from mrdist.data.shards import Arrays
from mrdist.data.triplets import Half, Row, Rows, TripletStore
from mrdist.errors import DataError, MrdistError, RecipeError
from mrdist.ranks import Ranks
from mrdist.recipe import Augment
from mrdist.shapes import Bytes, Float, TripletBatch

_AHEAD = 2  # batches that each worker may be ahead


class Loader:
    """Batches of a split, without end.

    The order of an epoch is a permutation that depends on (seed, epoch) only; step s takes its rows [s * batch, (s + 1) * batch), and
    rank r the r-th equal share of those, so that gathered rows stand in the same order on any number of ranks. Which view, which
    caption, which of the stored points, and the augmentation depend on (seed, epoch, shape) only. The last rows of an epoch, fewer
    than a batch, are left out; the next epoch has another order.

    Workers are threads: the work is reading, and numpy on large arrays, and both let other threads run (benchmarks/loader.py compares
    them with processes). Nothing is copied between processes, no /dev/shm fills up, and nothing is forked beside CUDA.
    """

    def __init__(
        self,
        store: TripletStore,
        split: str,
        *,
        batch: int,
        sample: int,
        seed: int,
        ranks: Ranks,
        augment: Augment,
        workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            batch: rows of the global batch: the width of every relation.
            sample: points per cloud, at most those stored.
            workers: threads that prepare batches ahead; 0 prepares each when it is asked for.
            device: where batches are wanted; for CUDA they are pinned first, and copied without waiting.

        Raises:
            DataError: no such split, or it holds less than one batch.
            RecipeError: the batch cannot be shared equally, or more points are wanted than stored.
        """
        rows = store.indices(split)
        if len(rows) < batch:
            raise DataError(
                what=f"split {split!r} of {store.folder}",
                got=f"{len(rows)} shapes",
                wanted=f"at least one batch of {batch}",
                try_=f"batch={1 << (len(rows).bit_length() - 1)}, or more shapes",
            )
        if batch % ranks.size:
            fitting = max(ranks.size, batch - batch % ranks.size)
            raise RecipeError(what="batch", got=batch, wanted=f"a multiple of {ranks.size} ranks", try_=f"batch={fitting}")
        if not 0 < sample <= store.points:
            raise RecipeError(what="sample", got=sample, wanted=f"1 to {store.points} stored points", try_=f"sample={store.points}")
        self.steps_per_epoch = len(rows) // batch
        self._store, self._rows, self._batch, self._sample = store, rows, batch, sample
        self._seed, self._ranks, self._augment = seed, ranks, augment
        self._workers, self._device = workers, torch.device(device)
        if self._device == torch.device("cuda"):  # which one it is depends on the thread that asks
            self._device = torch.device("cuda", torch.cuda.current_device())
        self._order = lru_cache(maxsize=2)(self._permutation)

    def batches(self, after: int) -> Iterator[TripletBatch]:
        """The batches that come after `after` steps, without end; the same whether or not the steps before were taken here.

        Raises:
            DataError: a shape cannot be read; names it.
        """
        if self._workers == 0:
            for step in count(after):
                yield self._pinned(step).to(self._device)
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="loader")
        pending: deque[Future[TripletBatch]] = deque()
        try:
            for step in count(after):
                while len(pending) < _AHEAD * self._workers:
                    pending.append(pool.submit(self._pinned, step + len(pending)))
                yield pending.popleft().result().to(self._device)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def at(self, step: int) -> TripletBatch:
        """My rows of the batch that follows `step` steps, in ordinary memory."""
        epoch, within = divmod(step, self.steps_per_epoch)
        mine = self._batch // self._ranks.size
        first = within * self._batch + self._ranks.rank * mine
        return self._assembled(self._order(epoch)[first : first + mine], epoch)

    def _permutation(self, epoch: int) -> Rows:
        return np.random.default_rng(key(self._seed, epoch, "order")).permutation(self._rows)

    def _pinned(self, step: int) -> TripletBatch:
        batch = self.at(step)
        if self._device.type != "cuda":
            return batch
        with torch.cuda.device(self._device):  # otherwise every rank's threads would open the first GPU
            return replace(batch, **{name: value.pin_memory() for name, value in batch.tensors().items()})

    def _assembled(self, rows: Rows, epoch: int) -> TripletBatch:
        shape = (len(rows), self._sample, 3)
        batch = TripletBatch(
            xyz=torch.empty(shape),
            rgb=torch.empty(shape),
            image=torch.zeros(len(rows), self._store.width),
            text=torch.zeros(len(rows), self._store.width),
            has_image=torch.zeros(len(rows), dtype=torch.bool),
            has_text=torch.zeros(len(rows), dtype=torch.bool),
            keys=torch.zeros(len(rows), dtype=torch.int64),
            ids=tuple(self._store.id(row) for row in rows.tolist()),
            categories=tuple(self._store.category(row) for row in rows.tolist()),
        )
        out = {name: value.numpy() for name, value in batch.tensors().items()}  # the same memory
        for k, (row, name) in enumerate(zip(rows.tolist(), batch.ids, strict=True)):
            try:
                self._fill(out, k, self._store.row(row), key(self._seed, epoch, name))
            except MrdistError as wrong:
                raise DataError(what=f"shape {name!r} in {wrong.what}", got=wrong.got, wanted=wrong.wanted, try_=wrong.try_) from None
            except Exception as wrong:
                raise DataError(what=f"shape {name!r}", got=repr(wrong), wanted="a triplet", try_="run `mrdist prepare` again") from wrong
        return batch

    def _fill(self, out: Arrays, k: int, held: Row, seed: int) -> None:
        random = np.random.default_rng(seed)
        out["keys"][k] = seed
        # Both chances are always drawn: one caption more or less must not change the augmentation.
        for name, rows, chance in zip(("image", "text"), (held.image, held.text), random.random(2), strict=True):
            if len(rows) > 0:
                row = rows[int(chance * len(rows))].astype(np.float32)
                out[name][k], out[f"has_{name}"][k] = row / np.sqrt(row @ row), True
        out["xyz"][k], out["rgb"][k] = self._seen(held.xyz, held.rgb, random)

    def _seen(self, xyz: Half, rgb: Bytes, random: np.random.Generator) -> tuple[Float, Float]:
        if self._sample < len(xyz):
            chosen = random.choice(len(xyz), self._sample, replace=False, shuffle=False)
            xyz, rgb = xyz.take(chosen, 0), rgb.take(chosen, 0)
        return augment(xyz.astype(np.float32), np.divide(rgb, 255, dtype=np.float32), self._augment, random)


def key(seed: int, epoch: int, name: str) -> int:
    """A seed, of 63 bits: of everything that is random about one shape in one epoch, or of something else with a name."""
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch} {name}".encode()).digest()[:8], "little") >> 1
