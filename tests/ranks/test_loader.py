"""What real ranks load, gathered, is what one process loads."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from mrdist.data.loader import Loader
from mrdist.data.triplets import TripletStore
from mrdist.ranks import Ranks
from mrdist.recipe import Augment
from mrdist.testing import on_ranks
from tests.unit.data.test_triplets import write_store


def gathered(ranks: Ranks, folder: str, workers: int, after: int) -> list[dict[str, torch.Tensor]]:
    store = TripletStore.open(Path(folder))
    loader = Loader(store, "train", batch=8, sample=20, seed=3, ranks=ranks, augment=Augment(), workers=workers, device="cpu")
    return [
        {name: ranks.gather(value) for name, value in batch.tensors().items()} for batch in islice(filter(None, loader.batches(after)), 6)
    ]


@pytest.mark.parametrize(("size", "workers"), [(4, 1)])
def test_ranks_together_load_the_batch_that_one_process_loads(tmp_path: Path, size: int, workers: int) -> None:
    write_store(tmp_path, [range(15), range(15, 40)])
    alone = gathered(Ranks.alone(), str(tmp_path), 0, after=2)
    for held in on_ranks(size, gathered, str(tmp_path), workers, 2):
        for mine, whole in zip(held, alone, strict=True):
            assert all(torch.equal(mine[name], value) for name, value in whole.items())
