"""What a run writes down of its batches, on real ranks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from mrdist.ranks import Ranks
from mrdist.testing import on_ranks
from mrdist.training.engine import PlainConfig
from mrdist.training.loop import train
from mrdist.training.run import Run
from tests.ranks.real import WIDTH, RealLoader, real_recipe


def trained(ranks: Ranks, folder: Path) -> None:
    recipe = real_recipe(PlainConfig(), steps=2)
    recipe = replace(recipe, watch=replace(recipe.watch, shapes=True, pictures_every=0))
    train(Run.open(recipe, folder, ranks, RealLoader(ranks), WIDTH))


def test_metrics_name_every_shape_of_the_global_batch_in_its_order(tmp_path: Path) -> None:
    on_ranks(2, trained, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["shapes"] for line in lines] == [[f"shape-{number}" for number in range(16)]] * 2
