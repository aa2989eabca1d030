"""Runs that begin with released weights begin with the same numbers in every engine."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mrdist.kinds import Part
from mrdist.objectives.base import Objective
from mrdist.objectives.mrd import MRDConfig
from mrdist.ranks import Ranks
from mrdist.shapes import TripletBatch
from mrdist.students.base import StudentConfig
from mrdist.students.released import preset
from mrdist.testing import on_ranks
from mrdist.training.engine import PlainConfig
from mrdist.training.zero import ZeroConfig
from tests.ranks.real import real_recipe
from tests.unit.students.originals import numbers, openshape_shapes

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed")


def begun(ranks: Ranks, student: StudentConfig, engines: list[Part]) -> list[dict[str, Tensor]]:
    """The full state, before any step, of one engine after the other."""

    def make() -> Objective[TripletBatch]:
        return MRDConfig().build(student.build(1280, seed=0))

    states = []
    for config in engines:
        recipe = replace(real_recipe(config), student=student)
        engine = config.build(make, recipe, ranks, torch.device("cpu"))  # type: ignore[attr-defined]
        states.append({name: tensor.clone() for name, tensor in engine.state() if name.startswith(("weights/", "buffers/"))})
        engine.close()
    return states


def test_a_student_born_in_shards_begins_with_all_of_them(tmp_path: Path) -> None:
    torch.save({"state_dict": numbers(openshape_shapes(256, 6, 1024, 96))}, tmp_path / "model.pt")
    student = replace(preset("pointbert-1"), norm="batch", weights=str(tmp_path / "model.pt"))
    engines: list[Part] = [PlainConfig(), ZeroConfig(stage=3, build_sharded=True)]
    fresh = {f"weights/student.{n}": v for n, v in replace(student, weights="").build(1280, seed=0).state_dict().items()}
    for plain, sharded in on_ranks(2, begun, student, engines):
        assert plain.keys() == sharded.keys()
        assert all(plain[name].equal(sharded[name]) for name in plain)
        assert any(name.endswith("running_var") for name in plain)
        assert not any(plain[name].equal(fresh[name]) for name in plain if name in fresh)
