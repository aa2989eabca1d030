"""A shape that kills whoever has it drawn is found, and no other is lost; with real deaths, without Ray."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mrdist.data.catalog import Catalog
from mrdist.data.sources.folder import FolderConfig
from mrdist.prepare.units import crew_of, read_unit
from mrdist.prepare.work import Work
from mrdist.recipe import Recipe
from mrdist.shapes import Shape
from mrdist_cluster.quarantine import draw_in_spite
from tests import hostile
from tests.cluster.killer import DEADLY
from tests.cluster.small import recipe

DRAW = """
import sys
from pathlib import Path
from mrdist.prepare.units import crew_of
from mrdist.prepare.work import Work
from mrdist_cluster.quarantine import draw_in_spite
from tests.cluster import killer
from tests.unit.cluster.test_quarantine import given
killer.arm()
work = Work.open(given(Path(sys.argv[1])))
with crew_of(work.round(), 2) as crew:
    draw_in_spite(work.round(), 0, work.units[0], crew, pipeline="p", retries=0)
"""


def given(folder: Path) -> Recipe:
    return recipe(folder / "store", data=FolderConfig(path=str(folder / "meshes" / "manifest.jsonl"), val=0, test=0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "meshes"
    root.mkdir()
    for k, name in enumerate(("good-0.glb", "good-1.glb", "good-2.glb", DEADLY)):
        hostile.write_good(root / name, k)
    Catalog.write(root / "manifest.jsonl", [Shape(path.name, path) for path in sorted(root.glob("*.glb"))])
    return tmp_path


def attempt(folder: Path) -> int:
    return subprocess.run([sys.executable, "-c", DRAW, str(folder)], check=False).returncode


def test_the_killer_is_named_and_the_innocent_are_drawn(folder: Path) -> None:
    work = Work.open(given(folder))
    round = work.round()
    note = round.renders / "00000.trial"
    assert attempt(folder) == -signal.SIGKILL  # all at once
    assert attempt(folder) == -signal.SIGKILL  # one by one
    assert note.exists()
    assert attempt(folder) == 0
    assert not note.exists()
    notes = read_unit(round, 0).notes
    assert sorted(one["id"] for one in notes["shapes"]) == ["good-0.glb", "good-1.glb", "good-2.glb"]
    (skipped,) = notes["skipped"]
    assert skipped["id"] == DEADLY
    assert skipped["reason"] == "killed its renderer: that died 2 times at this unit, the last time alone with this shape"


def test_how_often_another_pipeline_was_stopped_says_nothing_about_its_shapes(folder: Path) -> None:
    work = Work.open(given(folder))
    round = work.round()
    round.renders.mkdir(parents=True)
    note = '{"pipeline": "other", "begun": 9, "at": "good-1.glb", "refused": {"good-2.glb": "killed"}}'
    with crew_of(round, 2) as crew:
        for pipeline, refused in (("mine", []), ("other", ["good-1.glb", "good-2.glb"])):
            (round.renders / "00000.trial").write_text(note)
            drawn = draw_in_spite(round, 0, work.units[0], crew, pipeline=pipeline, retries=20)
            assert sorted(one["id"] for one in drawn.notes["skipped"]) == refused
