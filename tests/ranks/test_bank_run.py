"""A run with a bank and a queue, from a real store: it trains, and it resumes bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mrdist.data.loader import Loader
from mrdist.data.triplets import TripletStore
from mrdist.errors import RecipeError
from mrdist.kinds import Part
from mrdist.objectives.mrd import MRDConfig
from mrdist.objectives.parts.study import bank_of, keys_of
from mrdist.ranks import Ranks
from mrdist.recipe import Augment, Recipe, Watch
from mrdist.relation.bank import Bank
from mrdist.testing import on_ranks, tiny_triplets
from mrdist.training.engine import PlainConfig
from mrdist.training.loop import train
from mrdist.training.run import Run
from mrdist.training.zero import ZeroConfig
from tests.ranks.real import real_recipe
from tests.ranks.test_resume import Until
from tests.ranks.test_zero import SMALL
from tests.unit.data.test_triplets import WIDTH, write_store
from tests.unit.objectives.plain import objective

SHAPES, QUEUE, CPU = 40, 12, torch.device("cpu")
OBJECTIVE = MRDConfig(warmup=2, bank=0.5, queue=QUEUE)


def recipe_of(engine: Part) -> Recipe:
    watch = Watch(log_every=0, pictures_every=0, save_every=0, silence=0.0)
    return replace(real_recipe(engine), batch=8, points=32, sample=24, objective=OBJECTIVE, watch=watch)


def carried_out(ranks: Ranks, store: Path, engine: Part, folder: Path, until: int) -> dict[str, Tensor]:
    """Train in a folder until a step; everything that is left then."""
    recipe, held = recipe_of(engine), TripletStore.open(store)
    loader = Loader(held, "train", batch=8, sample=24, seed=recipe.seed, ranks=ranks, augment=Augment())
    run = train(Run.open(recipe, folder, ranks, loader, WIDTH, [Until(until)] if until < recipe.steps else [], store=held))
    assert run.step == until
    state = {name: tensor.clone() for name, tensor in run.engine.state()}
    run.engine.close()
    return state


def whole_and_halves(ranks: Ranks, store: Path, folder: Path, engines: dict[str, Part]) -> list[tuple[dict[str, Tensor], ...]]:
    jobs = [[("whole", 4)], [("halves", 2), ("halves", 4)]]
    return [
        tuple([carried_out(ranks, store, engine, folder / f"{name}-{part}", until) for part, until in job][-1] for job in jobs)
        for name, engine in engines.items()
    ]


def losses(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_with_bank_and_queue_resumes_bit_for_bit_and_costs_the_same_on_any_number_of_ranks(tmp_path: Path) -> None:
    write_store(tmp_path / "store", [range(SHAPES)])
    engines: dict[str, Part] = {"plain": PlainConfig(chunk=3)}
    if find_spec("deepspeed") is not None:
        engines["zero3"] = ZeroConfig(stage=3, **SMALL)
    for held in on_ranks(2, whole_and_halves, tmp_path / "store", tmp_path, engines):
        for once, twice in held:
            assert once.keys() == twice.keys()
            assert all(torch.equal(once[name], twice[name]) for name in once)
            assert once["buffers/queue_points"].norm(dim=-1).allclose(torch.ones(QUEUE))
            assert once["buffers/queue_has_text"].any()
    carried_out(Ranks.alone(), tmp_path / "store", PlainConfig(), tmp_path / "alone", 4)
    for one, two in zip(losses(tmp_path / "alone"), losses(tmp_path / "plain-whole"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
    assert "bank/point_for_text" in json.dumps(one)


def test_a_bank_holds_the_mean_of_each_shapes_views_and_captions_of_the_training_split_alone(tmp_path: Path) -> None:
    store = write_store(tmp_path, [range(7), range(7, 13)])
    rows = store.indices("train").tolist()
    bank = bank_of(store, "train", Ranks.alone(), CPU)
    assert torch.equal(bank.keys, keys_of([store.id(row) for row in rows], CPU))
    assert len(set(bank.keys.tolist())) == len(rows)
    for k, row in enumerate(rows):
        for held, here, embeddings in zip((bank.image, bank.text), (bank.has_image, bank.has_text), store.taught(row), strict=True):
            assert bool(here[k]) == (len(embeddings) > 0)
            mean = np.mean([e.astype(np.float64) / np.linalg.norm(e.astype(np.float64)) for e in embeddings] or [np.zeros(WIDTH)], axis=0)
            assert torch.allclose(held[k], normalize(torch.from_numpy(mean), dim=0).float(), atol=1e-6)


def shelved(ranks: Ranks, store: Path) -> list[Tensor]:
    return [held.clone() for held in bank_of(TripletStore.open(store), "train", ranks, CPU)]


def test_parts_of_all_ranks_are_the_bank_of_one_and_as_long_as_one_another(tmp_path: Path) -> None:
    whole = bank_of(write_store(tmp_path, [range(18)]), "train", Ranks.alone(), CPU)
    parts = [Bank(*held) for held in on_ranks(3, shelved, tmp_path)]
    lengths = [5, 5, 4]
    assert [len(part.keys) for part in parts] == [5, 5, 5]
    assert not parts[2].has_image[4]
    for name in Bank._fields:
        together = torch.cat([getattr(part, name)[:length] for part, length in zip(parts, lengths, strict=True)])
        assert torch.equal(together, getattr(whole, name)), name


def test_a_bank_that_nobody_has_read_is_missed() -> None:
    with pytest.raises(RecipeError, match="no bank to meet"):
        objective(bank=1.0)(tiny_triplets(8, dtype=torch.float64), Ranks.alone())
