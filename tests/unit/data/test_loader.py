"""The order and the look of samples depend on (seed, epoch, shape) and on nothing else."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrdist.data.loader import Loader
from mrdist.data.order import parts_first, place, prefix
from mrdist.data.parts import write_index, write_part
from mrdist.data.rounds import Rounds
from mrdist.data.shards import Shards
from mrdist.data.triplets import TripletStore
from mrdist.errors import DataError, RecipeError
from mrdist.ranks import Ranks
from mrdist.recipe import Augment
from mrdist.shapes import Shape, Triplet, TripletBatch
from tests.unit.data.test_triplets import POINTS, WIDTH, following, split_of, triplet, write_one, write_store

TRAIN = sum(split_of(k) == "train" for k in range(40))  # 32


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TripletStore:
    return write_store(tmp_path_factory.mktemp("store"), [range(15), range(15, 40)])


def loader(store: TripletStore, **changes: Any) -> Loader:
    given: dict[str, Any] = {
        "batch": 8,
        "sample": 20,
        "seed": 1,
        "ranks": Ranks.alone(),
        "augment": Augment(),
        "workers": 0,
        "device": "cpu",
    }
    return Loader(store, "train", **{**given, **changes})


def take(loader: Loader, count: int, after: int = 0) -> list[TripletBatch]:
    return list(islice((batch for batch in loader.batches(after) if batch is not None), count))


def equal(a: TripletBatch, b: TripletBatch) -> bool:
    same = all(torch.equal(value, b.tensors()[name]) for name, value in a.tensors().items())
    return same and (a.ids, a.categories) == (b.ids, b.categories)


def joined(shares: list[TripletBatch]) -> TripletBatch:
    tensors = {name: torch.cat([share.tensors()[name] for share in shares]) for name in shares[0].tensors()}
    return TripletBatch(**tensors, ids=sum((s.ids for s in shares), ()), categories=sum((s.categories for s in shares), ()))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_global_batch_is_the_same_on_any_number_of_ranks_and_workers(store: TripletStore, size: int, workers: int) -> None:
    whole = take(loader(store), 9)
    shares = [take(loader(store, ranks=Ranks(rank, size), workers=workers), 9) for rank in range(size)]
    for step, batch in enumerate(whole):
        assert equal(batch, joined([share[step] for share in shares]))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("after", [1, 3, 4, 7])
def test_resuming_after_some_steps_gives_the_batches_that_would_have_come(store: TripletStore, after: int, workers: int) -> None:
    whole = take(loader(store), 9)
    resumed = take(loader(store, workers=workers), 9 - after, after=after)
    assert all(equal(a, b) for a, b in zip(whole[after:], resumed, strict=True))


def test_the_first_epoch_goes_from_part_to_part_and_the_others_do_not(tmp_path: Path) -> None:
    store = write_store(tmp_path, [range(10 * n, 10 * n + 10) for n in range(4)])  # eight of ten are in the training split

    def parts(step: int, seed: int) -> list[list[int]]:
        return [[int(name.split("-")[1]) // 10 for name in batch.ids] for batch in take(loader(store, seed=seed), 4, after=step)]

    orders = []
    for seed in range(6):
        first = parts(0, seed)
        assert all(len(set(batch)) == 1 for batch in first)
        orders.append(tuple(batch[0] for batch in first))
        assert sorted(orders[-1]) == [0, 1, 2, 3]
        assert any(len(set(batch)) > 1 for batch in parts(4, seed))
        ids = [name for batch in take(loader(store, seed=seed), 4) for name in batch.ids]
        assert ids != sorted(ids)
    assert len(set(orders)) > 1


PARTS = [range(15), range(15, 20), range(0), range(20, 40)]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_loaded_while_a_store_grows_is_what_is_loaded_of_the_whole_one(tmp_path: Path, workers: int) -> None:
    whole = take(loader(write_store(tmp_path / "whole", PARTS)), 9)
    growing = loader(following(tmp_path / "grown", len(PARTS), patience=20), workers=workers)
    got: list[TripletBatch | None] = []
    waiting = list(parts_first(1, len(PARTS)))
    batches = growing.batches(0)
    while len(got) < 9:
        batch = next(batches)
        if batch is not None:
            got.append(batch)
        else:
            write_one(tmp_path / "grown", waiting[0], PARTS[waiting.pop(0)])
    assert not waiting  # and no index was ever written: the epochs after the first need the parts only
    assert all(equal(a, b) for a, b in zip(whole, got, strict=True) if b is not None)


def test_only_the_parts_that_a_step_needs_are_waited_for(tmp_path: Path) -> None:
    whole = take(loader(write_store(tmp_path / "whole", PARTS)), 4)
    first, second, *_ = [part for part in parts_first(1, len(PARTS)) if len(PARTS[part])]
    for part in [part for part in range(len(PARTS)) if not len(PARTS[part])] + [first]:
        write_one(tmp_path / "grown", part, PARTS[part])
    batches = loader(following(tmp_path / "grown", len(PARTS)), workers=1).batches(0)
    there = sum(split_of(k) == "train" for k in PARTS[first]) // 8
    got = [next(batches) for _ in range(there + 1)]
    assert all(equal(a, b) for a, b in zip(whole, got, strict=False) if b is not None)
    assert [batch is None for batch in got] == [False] * there + [True]
    with pytest.raises(DataError, match=rf"part 0000{second} of .*nobody at work"):
        list(islice(batches, 10))


@pytest.mark.parametrize("after", [1, 3, 5])
def test_going_on_while_a_store_grows_gives_the_batches_that_would_have_come(tmp_path: Path, after: int) -> None:
    whole = take(loader(write_store(tmp_path / "grown", PARTS)), 7)
    (tmp_path / "grown" / "index.json").unlink()
    resumed = take(loader(following(tmp_path / "grown", len(PARTS))), 7 - after, after=after)
    assert all(equal(a, b) for a, b in zip(whole[after:], resumed, strict=True))


def test_a_store_that_turns_out_to_be_smaller_than_a_batch_is_refused(tmp_path: Path) -> None:
    write_one(tmp_path, 0, range(5))
    with pytest.raises(DataError, match=r"got 4 shapes, wanted at least one batch of 8.*batch=4"):
        loader(following(tmp_path, 1))


def test_a_fraction_is_trained_on_alone_and_in_an_order_of_its_own(tmp_path: Path) -> None:
    order = sorted(range(40), key=lambda k: place(triplet(k).id))
    parts = [order[n : n + 10] for n in range(0, 40, 10)]
    write_store(tmp_path, parts)
    units = [[Shape(triplet(k).id, tmp_path, split=split_of(k)) for k in part] for part in parts]
    train = [triplet(k).id for k in order if split_of(k) == "train"]
    for fraction in (0.25, 0.5, 1.0):
        count = round(fraction * TRAIN)
        some = loader(TripletStore.open(tmp_path, prefix(units, fraction)))
        assert some.steps_per_epoch == count // 8
        for epoch in range(2):
            seen = [name for batch in take(some, count // 8, after=epoch * count // 8) for name in batch.ids]
            assert sorted(seen) == sorted(train[:count])


def turned(k: int) -> Triplet:
    """Shape k as another round draws it."""
    held = triplet(k)
    return replace(held, image=-held.image)


def test_every_round_of_views_serves_its_epochs_and_what_it_lacks_comes_from_the_first(tmp_path: Path) -> None:
    first = write_store(tmp_path / "0", [range(15), range(15, 40)])
    shards = Shards(tmp_path / "1")
    for number, rows in enumerate(([k for k in range(15) if k != 6], range(15, 40))):  # this round could not draw shape 6
        write_part(shards, number, [turned(k) for k in rows], [split_of(k) for k in rows], width=WIDTH, points=POINTS)
    write_index(shards, 2, width=WIDTH, points=POINTS)
    later = {1: TripletStore.open(tmp_path / "1")}
    plain, again = take(loader(first), 16), take(loader(first, rounds=Rounds(first, 2, later.get)), 16)
    for step, (a, b) in enumerate(zip(plain, again, strict=True)):
        assert (a.ids, a.text.tolist(), a.xyz.tolist()) == (b.ids, b.text.tolist(), b.xyz.tolist())
        sign = [[1.0 if step < 8 or name == triplet(6).id else -1.0] for name in a.ids]
        assert torch.equal(a.image * torch.tensor(sign), b.image)
    with pytest.raises(DataError, match=r"round 2 of .*Try: mrdist prepare"):
        take(loader(first, rounds=Rounds(first, 2, later.get)), 1, after=16)


def test_a_round_that_others_still_make_is_waited_for(tmp_path: Path) -> None:
    write_store(tmp_path, [range(15), range(15, 40)])
    first = following(tmp_path, 2, patience=20)
    later: dict[int, TripletStore] = {}
    batches = loader(first, rounds=Rounds(first, 1, later.get), workers=1).batches(0)
    assert [next(batches) is None for _ in range(6)] == [False] * 4 + [True] * 2
    later[1] = TripletStore.open(tmp_path)
    assert [next(batches) is None for _ in range(5)] == [False] * 4 + [True]


def test_every_shape_comes_once_per_epoch_and_every_epoch_has_its_order(store: TripletStore) -> None:
    assert loader(store).steps_per_epoch == TRAIN // 8
    epochs = [[name for batch in take(loader(store), 4, after=4 * e) for name in batch.ids] for e in range(3)]
    expected = sorted(triplet(k).id for k in range(40) if split_of(k) == "train")
    assert [sorted(epoch) for epoch in epochs] == [expected] * 3
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    other = [name for batch in take(loader(store, seed=2), 4) for name in batch.ids]
    assert sorted(other) == expected
    assert other != epochs[0]


def test_the_last_incomplete_batch_of_an_epoch_is_left_out(store: TripletStore) -> None:
    assert loader(store, batch=12).steps_per_epoch == 2
    first = [name for batch in take(loader(store, batch=12), 2) for name in batch.ids]
    assert len(set(first)) == 24
    assert len({name for batch in take(loader(store, batch=12), 8) for name in batch.ids}) == TRAIN  # other epochs leave out others


def test_how_a_shape_looks_depends_on_seed_epoch_and_shape_not_on_its_place(store: TripletStore) -> None:
    def looks(steps: int, **changes: Any) -> dict[str, torch.Tensor]:
        return {name: batch.xyz[k] for batch in take(loader(store, **changes), steps) for k, name in enumerate(batch.ids)}

    small, large = looks(4), looks(2, batch=16)
    assert all(torch.equal(small[name], large[name]) for name in small)
    other_seed = looks(4, seed=2)
    second = {name: batch.xyz[k] for batch in take(loader(store), 4, after=4) for k, name in enumerate(batch.ids)}
    assert not any(torch.equal(small[name], other[name]) for other in (other_seed, second) for name in small)


def test_rows_are_what_the_store_holds(store: TripletStore) -> None:
    nothing = Augment(scale=(1.0, 1.0), shift=0.0, tilt=0.0, yaw=False, drop_colour=0.0)
    by_id = {triplet(k).id: triplet(k) for k in range(40)}
    chosen: dict[str, set[bytes]] = {}
    for batch in take(loader(store, augment=nothing), 40):
        for k, name in enumerate(batch.ids):
            held = by_id[name]
            assert batch.categories[k] == held.category
            stored = {(*xyz, *rgb) for xyz, rgb in zip(held.points.xyz.tolist(), held.points.rgb.tolist(), strict=True)}
            picked = [(*xyz, *rgb) for xyz, rgb in zip(batch.xyz[k].tolist(), batch.rgb[k].tolist(), strict=True)]
            assert len(picked) == len(set(picked)) == 20
            assert set(picked) <= stored
            for has, row, rows in ((batch.has_image, batch.image, held.image), (batch.has_text, batch.text, held.text)):
                assert bool(has[k]) == (len(rows) > 0)
                if len(rows) == 0:
                    assert (row[k] == 0).all()
                else:
                    assert float(row[k].norm()) == pytest.approx(1, abs=1e-6)
                    nearest = int(np.argmax(rows.astype(np.float32) @ row[k].numpy()))
                    np.testing.assert_allclose(row[k], rows[nearest].astype(np.float32), atol=1e-3)
                    chosen.setdefault(name, set()).add(row[k].numpy().tobytes())
    assert all(len(chosen[held.id]) == len(held.image) + len(held.text) for held in by_id.values() if held.id in chosen)


def test_batches_have_the_types_that_were_promised(store: TripletStore) -> None:
    (batch,) = take(loader(store), 1)
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.tensors().items()} == {
        "xyz": ((8, 20, 3), torch.float32),
        "rgb": ((8, 20, 3), torch.float32),
        "image": ((8, WIDTH), torch.float32),
        "text": ((8, WIDTH), torch.float32),
        "has_image": ((8,), torch.bool),
        "has_text": ((8,), torch.bool),
        "keys": ((8,), torch.int64),
    }
    assert (batch.keys >= 0).all()
    assert len(set(batch.keys.tolist())) == 8


def test_all_points_are_taken_in_their_order_when_no_fewer_are_wanted(store: TripletStore) -> None:
    nothing = Augment(scale=(1.0, 1.0), shift=0.0, tilt=0.0, yaw=False, drop_colour=0.0)
    (batch,) = take(loader(store, sample=POINTS, augment=nothing), 1)
    for k, name in enumerate(batch.ids):
        np.testing.assert_array_equal(batch.xyz[k], triplet(int(name.split("-")[1])).points.xyz)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shape_that_cannot_be_read_is_named(tmp_path: Path, workers: int) -> None:
    held = write_store(tmp_path, [range(15), range(15, 40)])
    (part,) = tmp_path.glob("00001-*.safetensors")
    os.truncate(part, 1000)
    with pytest.raises(DataError, match=rf"shape 'shape-0[123]\d-é' in .*{part.name}: got 1000 bytes"):
        take(loader(held, workers=workers), 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 33}, f"got {TRAIN} shapes, wanted at least one batch of 33.*batch=32"),
        ({"batch": 9, "ranks": Ranks(0, 4)}, "batch: got 9, wanted a multiple of 4 ranks. Try: batch=8"),
        ({"sample": POINTS + 1}, f"sample: got {POINTS + 1}, wanted 1 to {POINTS} stored points"),
        ({"sample": 0}, "sample: got 0"),
    ],
)
def test_what_cannot_be_loaded_is_refused_at_once(store: TripletStore, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, RecipeError), match=message):
        loader(store, **changes)


def test_a_loader_that_is_left_leaves_no_thread_behind(store: TripletStore) -> None:
    before = threading.active_count()
    batches = loader(store, workers=2).batches(0)
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_another_rule_changes_no_choice_of_view_or_caption(store: TripletStore) -> None:
    with_drops = take(loader(store, augment=replace(Augment(), drop_points=0.5)), 4)
    for a, b in zip(take(loader(store), 4), with_drops, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.text, b.text)
