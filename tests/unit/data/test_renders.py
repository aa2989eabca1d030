"""Everything that can be drawn is drawn, once; everything else is named."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrdist.data import assets, order
from mrdist.data.catalog import Catalog
from mrdist.data.drawing import ShapeRenderer, render_shape
from mrdist.data.faults import MachineFault
from mrdist.data.order import place
from mrdist.data.renders import Renders, renders_key
from mrdist.data.shards import unit_name
from mrdist.data.synthetic import SyntheticConfig
from mrdist.errors import DataError
from mrdist.prepare.alone import draw
from mrdist.prepare.units import crew_of, draw_unit, read_unit
from mrdist.prepare.work import Round, Work
from mrdist.progress import Progress, silent
from mrdist.recipe import Limits, Recipe, Views
from mrdist.shapes import Shape

VIEWS, LIMITS, POINTS = Views(ring="front4", pixels=24, supersampling=1), Limits(seconds=300), 64
GOOD = 11


def bad_shapes(root: Path) -> list[Shape]:
    """Three that cannot be drawn, and why."""
    (root / "bad").mkdir()
    (root / "bad" / "cut-off.glb").write_bytes(b"glTF\x02\0\0\0\xff")
    (root / "bad" / "empty.ply").write_text("ply\nformat ascii 1.0\nend_header\n")
    (root / "bad" / "other.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    named = [Shape(f"m-{path.stem}", path, split="train") for path in sorted((root / "bad").iterdir())]
    return [*named[:2], replace(named[2], sha256="0" * 64)]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Eleven synthetic shapes and three bad ones; units of four."""
    made = SyntheticConfig(train=1, val=0, test=0, unseen=0).open(tmp_path_factory.mktemp("store"), silent)
    return Catalog(made.root, (*made.shapes[:GOOD], *bad_shapes(made.root)))


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "UNIT", 4)


def work_of(catalog: Catalog, folder: Path, **changes: Any) -> tuple[Work, Round]:
    """What is to be drawn, and a round of it that lies in `folder`."""
    given: dict[str, Any] = {"views": VIEWS, "limits": LIMITS, "points": POINTS, "workers": 1}
    work = Work(Recipe(name="drawn", **{**given, **changes}), catalog)
    return work, Round(0, work.recipe, catalog.root, (".glb",), len(work.units), folder)


def drawn(catalog: Catalog, folder: Path, progress: Progress = silent, **changes: Any) -> Renders:
    work, round = work_of(catalog, folder, **changes)
    draw(work, round, work.undrawn(round), lambda unit: None, progress)
    return Renders.open(folder)


@pytest.fixture(scope="module")
def whole(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Renders:
    """What an undisturbed run gives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "UNIT", 4)
        return drawn(catalog, tmp_path_factory.mktemp("whole"), workers=2)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def script(catalog: Catalog, folder: Path, halt: int = 0) -> list[str]:
    """A process that draws the catalogue and says, line by line, how many shapes it has drawn; at `halt` it stops and listens."""
    manifest = catalog.root / "some.jsonl"
    Catalog.write(manifest, catalog.shapes)
    code = f"""
import sys
from pathlib import Path
from mrdist.data import order
from mrdist.data.catalog import Catalog
from tests.unit.data.test_renders import drawn

def told(stage, done, total):
    print(done, flush=True)
    if done == {halt}:
        sys.stdin.read()

order.UNIT = 4
drawn(Catalog.open({str(manifest)!r}), Path({str(folder)!r}), progress=told)
"""
    return [sys.executable, "-c", code]


def test_good_shapes_arrive_and_bad_ones_are_named_with_a_reason(whole: Renders, catalog: Catalog) -> None:
    good = sorted(catalog.shapes[:GOOD], key=lambda shape: place(shape.id))
    assert len(whole) == GOOD
    for one, shape in zip(whole, good, strict=True):
        assert (one.id, one.category, one.split, one.captions) == (shape.id, shape.category, shape.split, shape.captions)
        assert one.xyz.shape == one.rgb.shape == (POINTS, 3)
        assert (one.xyz.dtype, one.rgb.dtype) == (np.dtype(np.float16), np.dtype(np.uint8))
        assert 0.8 < float(np.linalg.norm(one.xyz.astype(np.float64), axis=1).max()) < 1.001
        pictures = [np.asarray(Image.open(io.BytesIO(view))) for view in one.views]
        assert [picture.shape for picture in pictures] == [(24, 24, 3)] * 4
        assert all(picture.std() > 1 for picture in pictures)
    assert {one["id"]: one["mesh"] for one in whole.skipped} == {
        "m-cut-off": "bad/cut-off.glb",
        "m-empty": "bad/empty.ply",
        "m-other": "bad/other.off",
    }
    assert all("DataError" in one["reason"] for one in whole.skipped)
    assert ["sha256" in one["reason"] for one in whole.skipped] == [one["id"] == "m-other" for one in whole.skipped]
    assert list(whole.verify()) == []


def test_what_a_child_draws_is_what_the_same_code_draws_here(whole: Renders, catalog: Catalog) -> None:
    shape = min(catalog.shapes[:GOOD], key=lambda shape: place(shape.id))
    with ShapeRenderer(catalog.root, views=VIEWS, limits=LIMITS, points=POINTS) as renderer:
        request = renderer.request(shape)
    arrays, notes = render_shape(request)
    first = next(iter(whole))
    np.testing.assert_array_equal(first.xyz, arrays["xyz"])
    np.testing.assert_array_equal(first.rgb, arrays["rgb"])
    assert b"".join(first.views) == arrays["jpeg"].tobytes()
    assert notes["faces"] > 0


def test_a_killed_run_is_completed_not_repeated_and_ends_with_the_same_bytes(whole: Renders, catalog: Catalog, tmp_path: Path) -> None:
    # One unit of four is written, the second is half drawn.
    with subprocess.Popen(script(catalog, tmp_path, halt=6), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert [int(next(run.stdout)) for _ in range(6)] == [*range(1, 7)]
        run.send_signal(signal.SIGKILL)
    before, first = times(tmp_path), unit_name(work_of(catalog, tmp_path)[0].order[0])
    assert f"{first}.json" in before
    assert sum(name.endswith(".json") for name in before) == 1
    told: list[int] = []
    drawn(catalog, tmp_path, progress=lambda stage, done, total: told.append(done))
    after = times(tmp_path)
    assert all(after[name] == before[name] for name in before if name.startswith(first))
    assert told == [*range(5, 15), 14]
    assert files(tmp_path) == files(whole.folder)
    drawn(catalog, tmp_path)
    assert times(tmp_path) == after


def test_only_a_damaged_unit_is_drawn_again(whole: Renders, catalog: Catalog, tmp_path: Path) -> None:
    for name, content in files(whole.folder).items():
        (tmp_path / name).write_bytes(content)
    (damaged,) = tmp_path.glob("00002-*.safetensors")
    os.truncate(damaged, 100)
    before = times(tmp_path)
    with pytest.raises(DataError, match=damaged.name):
        list(Renders.open(tmp_path))
    drawn(catalog, tmp_path)
    assert files(tmp_path) == files(whole.folder)
    changed = {name for name, time in times(tmp_path).items() if time != before[name]}
    assert {name[:5] for name in changed} == {"00002", "index", "skipp"}


def test_two_processes_share_one_folder(whole: Renders, catalog: Catalog, tmp_path: Path) -> None:
    runs = [subprocess.Popen(script(catalog, tmp_path), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate()[0].split() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert files(tmp_path) == files(whole.folder)
    assert all(lines[-1] == "14" for lines in said)


def crashes_once(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Work of a child that is killed the first time, and says so the second time."""
    flag = Path(request["mesh"])
    if flag.exists():
        return {"tries": np.array([2])}, {}
    flag.touch()
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def meshes(root: Path, count: int) -> Catalog:
    """A catalogue of good meshes, 0.glb and so on."""
    from tests import hostile

    root.mkdir()
    for k in range(count):
        hostile.write_good(root / f"{k}.glb", k)
    return Catalog(root, tuple(Shape(path.name, path) for path in sorted(root.iterdir())))


@pytest.mark.parametrize("sight", ["no folder", "an empty folder", "other files"])
def test_a_machine_that_does_not_see_the_meshes_skips_none_for_good(tmp_path: Path, sight: str) -> None:
    held, away = meshes(tmp_path / "meshes", 3), tmp_path / "away"
    held.root.rename(away)
    if sight != "no folder":
        held.root.mkdir()
    if sight == "other files":
        (held.root / "other").touch()
    with pytest.raises(DataError, match=rf"{held.root} on .*: got .*{held.root}.*Try: see to its mounts"):
        drawn(held, tmp_path / "renders")
    work, round = work_of(held, tmp_path / "renders")
    with crew_of(round, 1) as crew, pytest.raises(MachineFault, match=str(held.root)):  # no MrdistError: tried again elsewhere
        draw_unit(round, 0, work.units[0], crew)
    (held.root / "other").unlink(missing_ok=True)
    away.rename(held.root)
    assert len(drawn(held, tmp_path / "renders")) == 3


@pytest.mark.parametrize("count", [1, 3])
def test_a_mesh_that_is_missing_alone_costs_one_shape_by_name(tmp_path: Path, count: int) -> None:
    held = meshes(tmp_path / "meshes", 4)
    held.shapes[0].mesh.unlink()
    with crew_of(work_of(held, tmp_path / "renders")[1], 1) as crew:
        for shapes in (held.shapes[:count], held.shapes):
            unit = draw_unit(work_of(held, tmp_path / "renders")[1], 0, shapes, crew)
            assert [(one["id"], "got no such file" in one["reason"]) for one in unit.notes["skipped"]] == [("0.glb", True)]


def on_a_bad_disk(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Work of a child for which one mesh cannot be read."""
    assets._open_beneath = _breaks if request["mesh"].endswith("1.glb") else assets._open_beneath
    return render_shape(request)


def _breaks(root: str, place: str) -> int:
    raise OSError(errno.EIO, os.strerror(errno.EIO), place)


def test_a_disk_that_fails_under_one_mesh_costs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = meshes(tmp_path / "meshes", 3)
    with monkeypatch.context() as patch:
        patch.setattr(ShapeRenderer, "work", f"{__name__}:on_a_bad_disk")
        with pytest.raises(DataError, match=r"meshes on .*: got .*shape 1\.glb: .*Input/output error.*Try: see to"):
            drawn(held, tmp_path / "renders")
    assert not list((tmp_path / "renders").glob("*.json"))
    assert len(drawn(held, tmp_path / "renders")) == 3


class Flaky(ShapeRenderer):
    """Shapes whose drawing crashes once."""

    work = "tests.unit.data.test_renders:crashes_once"


def test_a_crash_is_tried_once_more(tmp_path: Path) -> None:
    with Flaky(tmp_path, views=VIEWS, limits=LIMITS, points=POINTS) as renderer:
        outcome = renderer.draw(Shape("a", tmp_path / "flag"))
    assert outcome.ok
    assert outcome.arrays["tries"] == [2]


def test_a_quarantined_shape_is_not_touched_and_stands_among_the_skipped_with_its_reason(catalog: Catalog, tmp_path: Path) -> None:
    work, round = work_of(catalog, tmp_path)
    bad = work.units[0][1]
    begun: list[str] = []
    with crew_of(round, 1) as crew:
        unit = draw_unit(round, 0, work.units[0], crew, {bad.id: "killed its renderer"}, lambda shape: begun.append(shape.id))
    assert begun == [shape.id for shape in work.units[0] if shape is not bad]
    assert {"id": bad.id, "mesh": os.path.relpath(bad.mesh, catalog.root), "reason": "killed its renderer"} in unit.notes["skipped"]
    again = read_unit(round, 0)
    assert again.notes == unit.notes
    assert all(np.array_equal(again.arrays[name], value) for name, value in unit.arrays.items())
    assert bad.id not in {one.id for one in again.shapes()}


def test_a_catalogue_of_bad_shapes_only_is_an_error_that_says_why(catalog: Catalog, tmp_path: Path) -> None:
    bad = Catalog(catalog.root, catalog.shapes[GOOD:])
    with pytest.raises(DataError, match=r"no shape that can be drawn: m-(\w|-)+: DataError: .*(cut-off\.glb|empty\.ply|other\.off)"):
        drawn(bad, tmp_path)


def test_another_catalogue_in_the_same_folder_is_refused(whole: Renders, catalog: Catalog, tmp_path: Path) -> None:
    for name, content in files(whole.folder).items():
        if not name.startswith("index"):
            (tmp_path / name).write_bytes(content)
    other = Catalog(catalog.root, tuple(replace(shape, id=f"{shape.id}-new") for shape in catalog.shapes))
    with pytest.raises(DataError, match=r"unit 0 of .* got other shapes"):
        drawn(other, tmp_path)


def test_the_key_changes_with_everything_that_changes_a_picture(catalog: Catalog) -> None:
    def key(catalog: Catalog = catalog, **changes: Any) -> str:
        return renders_key(catalog, **{"views": VIEWS, "limits": LIMITS, "points": POINTS, **changes})

    keys = [
        key(),
        key(views=replace(VIEWS, pixels=25)),
        key(views=replace(VIEWS, quality=94)),
        key(limits=replace(LIMITS, texture_pixels=512)),
        key(points=65),
        key(Catalog(catalog.root, catalog.shapes[1:])),
        key(Catalog(catalog.root, (replace(catalog.shapes[0], up="z"), *catalog.shapes[1:]))),
    ]
    assert len(set(keys)) == len(keys)
    assert key(Catalog(catalog.root, catalog.shapes[::-1])) == keys[0]


def test_skipped_shapes_are_lines_that_other_tools_read(whole: Renders) -> None:
    lines = (whole.folder / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert [sorted(json.loads(line)) for line in lines] == [["id", "mesh", "reason"]] * 3


def test_two_hundred_bad_meshes_among_two_hundred_good_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All good ones arrive, all bad ones are named with the expected reason, and no worker dies."""
    from tests import hostile

    monkeypatch.setattr(order, "UNIT", 32)
    root = tmp_path / "meshes"
    bad = hostile.write_hostile(root, copies=3)
    good = [root / f"good-{k:03d}.glb" for k in range(200)]
    for k, path in enumerate(good):
        hostile.write_good(path, k)
    shapes = tuple(Shape(path.name, path) for path in (*good, *bad))
    workers: set[int] = set()
    draw = ShapeRenderer.draw

    def watched(renderer: ShapeRenderer, shape: Shape) -> Any:
        workers.add(renderer.pid)
        return draw(renderer, shape)

    monkeypatch.setattr(ShapeRenderer, "draw", watched)
    views = Views(ring="front4", pixels=16, supersampling=1)
    held = drawn(Catalog(root, shapes), tmp_path / "renders", workers=2, views=views, limits=hostile.LIMITS)
    assert {one.id for one in held} == {path.name for path in good}
    assert {one["mesh"] for one in held.skipped} == {path.name for path in bad}
    assert len(bad) >= 200
    assert len({path.name.partition("-")[2] for path in bad}) >= 20
    for one in held.skipped:
        assert hostile.expected(root / one["mesh"]).search(one["reason"]), one
    assert len(workers) == 2
