"""From a global order to my rows: which shapes a step trains on, and how they look this time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from itertools import count

import numpy as np
import torch

from mrdist.data.augment import augment
from mrdist.data.contents import Rows
from mrdist.data.order import key, parts_first, rows_first, rows_later
from mrdist.data.parts import Half, Row
from mrdist.data.rounds import Rounds
from mrdist.data.shards import Arrays, unit_name
from mrdist.data.tensors import AGAIN
from mrdist.data.triplets import TripletStore
from mrdist.data.waiting import POLL
from mrdist.errors import DataError, MrdistError, RecipeError
from mrdist.ranks import Ranks
from mrdist.recipe import Augment
from mrdist.shapes import Bytes, Float, TripletBatch

_AHEAD = 2  # batches that each worker may be ahead


class Loader:
    """Batches of a split, without end.

    The order of an epoch depends on (seed, epoch) only; step s of it takes its rows [s * batch, (s + 1) * batch), and rank r the r-th
    equal share of those, so that gathered rows stand in the same order on any number of ranks. Epoch 0 visits the parts of the store in
    a random order and the rows of each in another; parts are random samples of the catalogue, and a store may be trained on while
    others still make it, in that order of parts. Every later epoch is one random order of all rows. So it is the same whether the
    store was whole from the beginning or grew. The last rows of an epoch, fewer than a batch, are left out; the next epoch has another
    order. Which view, which caption, which of the stored points, and the augmentation depend on (seed, epoch, shape) only.

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
        rounds: Rounds | None = None,
    ) -> None:
        """
        Args:
            store: whole, or one that grows.
            batch: rows of the global batch: the width of every relation.
            sample: points per cloud, at most those stored.
            workers: threads that prepare batches ahead; 0 prepares each when it is asked for.
            device: where batches are wanted; for CUDA they are pinned first, and copied without waiting.
            rounds: what epochs see of a shape, where it is drawn again; None: all see what is in `store`.

        Raises:
            DataError: the split holds less than one batch.
            RecipeError: the batch cannot be shared equally, or more points are wanted than stored.
        """
        if batch % ranks.size:
            fitting = max(ranks.size, batch - batch % ranks.size)
            raise RecipeError(what="batch", got=batch, wanted=f"a multiple of {ranks.size} ranks", try_=f"batch={fitting}")
        if not 0 < sample <= store.points:
            raise RecipeError(what="sample", got=sample, wanted=f"1 to {store.points} stored points", try_=f"sample={store.points}")
        self._store, self._batch, self._sample = store, batch, sample
        self._seed, self._ranks, self._augment = seed, ranks, augment
        self._workers, self._device = workers, torch.device(device)
        if self._device == torch.device("cuda"):  # which one it is depends on the thread that asks
            self._device = torch.device("cuda", torch.cuda.current_device())
        self._rounds = rounds or Rounds(store, 0, lambda number: None)
        self._later = lru_cache(maxsize=2)(lambda epoch: rows_later(seed, epoch, np.sort(self._first.rows)))
        self._first = _First(store, split, seed, batch)
        self._first.walk()
        # Steps that all ranks can take with what is there.
        self._reach = 0.0 if store.followed else math.inf

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch, once all parts of the split are there."""
        assert self._first.ended, "the first epoch has not been read to its end"
        return len(self._first.rows) // self._batch

    def batches(self, after: int) -> Iterator[TripletBatch | None]:
        """The batches that come after `after` steps, without end; the same whether or not the steps before were taken here.

        None, after a moment, as long as the next batch is not there yet for some rank: all ranks get it alike, and none waits for a
        part while the others are in a collective.

        Raises:
            DataError: a shape cannot be read; names it. Or nobody makes what is missing.
        """
        pending: deque[Future[TripletBatch]] = deque()
        with ExitStack() as stack:
            pool = ThreadPoolExecutor(self._workers, thread_name_prefix="loader") if self._workers else None
            if pool is not None:
                stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            for step in count(after):
                while not self._there(step):
                    yield None
                while pool is not None and len(pending) < _AHEAD * self._workers and step + len(pending) < self._reach:
                    pending.append(pool.submit(self._pinned, step + len(pending)))
                yield (pending.popleft().result() if pending else self._pinned(step)).to(self._device)

    def at(self, step: int) -> TripletBatch:
        """My rows of the batch that follows `step` steps, in ordinary memory; it must be there."""
        # A store whose first epoch has not ended has no second one yet.
        epoch, within = divmod(step, self.steps_per_epoch) if self._first.ended else (0, step)
        mine = self._batch // self._ranks.size
        first = within * self._batch + self._ranks.rank * mine
        rows = self._later(epoch) if epoch else self._first.rows
        return self._assembled(rows[first : first + mine], epoch)

    def _there(self, step: int) -> bool:
        """Whether all ranks can read the batch after `step` steps; they ask one another where what they know may have grown."""
        if step + _AHEAD * self._workers >= self._reach:
            self._reach = -self._ranks.largest(-self._reachable())
        if step < self._reach:
            return True
        self._store.missed(self._rounds.next if self._first.ended else self._first.next)
        time.sleep(POLL)
        return False

    def _reachable(self) -> float:
        """How many steps can be taken with what I see."""
        self._first.walk()
        steps = len(self._first.rows) // self._batch
        return steps * self._rounds.epochs() if self._first.ended else steps

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
                self._fill(out, k, self._rounds.row(row, epoch), key(self._seed, epoch, name))
            except MrdistError as wrong:
                raise DataError(what=f"shape {name!r} in {wrong.what}", got=wrong.got, wanted=wrong.wanted, try_=wrong.try_) from None
            except Exception as wrong:
                raise DataError(what=f"shape {name!r}", got=repr(wrong), wanted="a triplet", try_=AGAIN) from wrong
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


class _First:
    """The rows of epoch 0, as far as the parts of a store are there in the order wanted."""

    def __init__(self, store: TripletStore, split: str, seed: int, batch: int) -> None:
        self.rows: Rows = np.zeros(0, np.int64)
        self.ended = False  # set after `rows`: other threads may look
        self._store, self._split, self._seed, self._batch = store, split, seed, batch
        self._waiting = deque(parts_first(seed, store.parts(split)))

    @property
    def next(self) -> str:
        """The part that is waited for, in words."""
        return f"part {unit_name(self._waiting[0])} of {self._store.folder}"

    def walk(self) -> None:
        """Take in the parts that have come.

        Raises:
            DataError: it was the last one, and all of them hold less than one batch.
        """
        fresh = []
        while self._waiting and self._store.has(self._waiting[0]):
            part = self._waiting.popleft()
            fresh.append(rows_first(self._seed, part, self._store.within(part, self._split)))
        if fresh:
            self.rows = np.concatenate([self.rows, *fresh])
        self.ended = not self._waiting
        if self.ended and len(self.rows) < self._batch:
            raise DataError(
                what=f"split {self._split!r} of {self._store.folder}",
                got=f"{len(self.rows)} shapes",
                wanted=f"at least one batch of {self._batch}",
                try_=f"batch={1 << max(0, len(self.rows).bit_length() - 1)}, or more shapes",
            )
