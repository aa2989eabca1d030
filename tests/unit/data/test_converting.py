"""OpenShape's and Uni3D's data become stores: the same points, rows, sentences and classes, whoever is killed meanwhile."""

from __future__ import annotations

import json
import multiprocessing
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from mrdist.data import converting
from mrdist.data.converted import ConvertedConfig
from mrdist.data.converting import begun, convert, skipped, work
from mrdist.data.order import UNIT, place
from mrdist.data.shards import Shards
from mrdist.data.sources.foreign import Entry, Source, cloud
from mrdist.data.sources.projects import source
from mrdist.data.sources.testsets import SCANNED
from mrdist.data.triplets import TripletStore
from mrdist.errors import DataError, RecipeError
from mrdist.shapes import Points, Triplet
from tests.foreign import OPENSHAPE, POINTS, UNI3D, hostile, write_openshape, write_test_sets, write_uni3d
from tests.waiting import LATE

WORDS = {"points": str(POINTS)}


@pytest.fixture(scope="module")
def openshape(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("openshape")
    made = write_openshape(root)
    write_test_sets(root / "meta_data" / "also", tables=True)
    for name in ("modelnet40", "scanobjectnn"):
        (root / "meta_data" / "also" / name).rename(root / "meta_data" / name)
    return root, made


def unit(rows: Any) -> np.ndarray:
    rows = np.asarray(rows, np.float64).reshape(-1, np.shape(rows)[-1])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def rows_by_id(store: TripletStore) -> dict[str, int]:
    return {store.id(row): row for row in store.rows().tolist()}


def classes(store: TripletStore) -> set[str]:
    return {store.category(row) for row in store.rows().tolist()}


def test_openshapes_shapes_come_back_as_their_loader_sees_them(tmp_path: Path, openshape: tuple[Path, list[dict[str, Any]]]) -> None:
    root, made = openshape
    flags = json.loads((root / "meta_data" / "gpt4_filtering.json").read_text())
    held = convert(source("openshape", root, {**WORDS, "val": "0.1", "test": "0.2"}), tmp_path / "out")
    store = held.store
    assert (len(store), store.width, store.points) == (70, OPENSHAPE, POINTS)
    assert set(store.splits) == {"train", "val", "test"}
    assert held.teacher == "ViT-bigG-14:laion2b_s39b_b160k"
    assert list(skipped(tmp_path / "out")) == []
    assert list(store.verify()) == []
    at = rows_by_id(store)
    for one in made:
        found = store[at[f"{one['dataset']}/{one['group']}/{one['id']}"]]
        wanted = Points.of(one["xyz"], one["rgb"].astype(np.float32), up="y")
        np.testing.assert_allclose(found.points.xyz, wanted.xyz, atol=1e-3)
        np.testing.assert_allclose(found.points.rgb, wanted.rgb, atol=0.5 / 255 + 1e-6)
        # y was up, twice as high as the box is wide: z is, now; and nothing is mirrored.
        assert np.linalg.det(np.linalg.lstsq(one["xyz"] - one["xyz"].mean(0), found.points.xyz - found.points.xyz.mean(0))[0]) > 0
        pictures = [one["image_feat"], *([one["thumbnail_feat"]] if "thumbnail_feat" in one else [])]
        np.testing.assert_allclose(found.image, unit(np.concatenate(pictures)), atol=1e-3)
        said = list(zip(one["text"], one["text_feat"], strict=True))
        if one["dataset"] == "Objaverse":
            said = [] if flags[one["id"]]["flag"] == "N" else said[:1]
        said += [(one[f"{name}_caption"], one[f"{name}_caption_feat"]) for name in ("blip", "msft") if one[f"{name}_caption"]]
        sentences = [(text, rows["prompt_avg"]) for text, rows in said]
        sentences += [(text, rows["original"]) for text, rows in zip(one["retrieval_text"], one["retrieval_text_feat"], strict=True)]
        assert found.captions == tuple(text for text, _ in sentences)
        np.testing.assert_allclose(found.text, unit(np.concatenate([rows for _, rows in sentences])), atol=1e-3)


def test_parts_are_units_in_the_order_of_all_stores(tmp_path: Path, openshape: tuple[Path, list[dict[str, Any]]]) -> None:
    store = convert(source("openshape", openshape[0], WORDS), tmp_path / "out").store
    ids = [store.id(row) for row in store.rows().tolist()]
    assert ids == sorted(ids, key=place)
    assert len(list((tmp_path / "out").glob("0*.json"))) == -(-70 // UNIT) == 2


def test_every_list_is_a_set(tmp_path: Path, openshape: tuple[Path, list[dict[str, Any]]]) -> None:
    sizes = {"train_no_lvis": 1, "ablation/train_shapenet_only": 18, "lvis": 52, "modelnet40": 9, "scanobjectnn": 20}
    for name, size in sizes.items():
        words = {**WORDS, "set": name} | ({"val": "0", "test": "0"} if "train" in name else {})
        store = convert(source("openshape", openshape[0], words), tmp_path / name).store
        assert len(store) == size
        assert store.splits == (("train",) if "train" in name else ("test",))


def test_a_test_set_carries_its_classes_rows_and_contract(tmp_path: Path, openshape: tuple[Path, list[dict[str, Any]]]) -> None:
    root, _ = openshape
    lvis = convert(source("openshape", root, {**WORDS, "set": "lvis"}), tmp_path / "lvis")
    assert lvis.classes == ("CD_player", "Lego", "ax")
    np.testing.assert_allclose(lvis.rows, unit(np.load(root / "meta_data" / "lvis_cat_name_pt_feat.npy")), atol=1e-3)
    assert classes(lvis.store) == set(lvis.classes)
    assert lvis.contract["up in the files"] == "y"
    assert (lvis.contract["listed"], lvis.contract["could be read"]) == (52, 52)
    assert "Objaverse-LVIS" in lvis.contract["from"]
    modelnet = convert(source("openshape", root, {**WORDS, "set": "modelnet40"}), tmp_path / "modelnet")
    assert modelnet.classes == ("airplane", "night_stand", "vase")
    said = np.load(root / "meta_data" / "modelnet40" / "cat_name_pt_feat.npy", allow_pickle=True).item()
    np.testing.assert_allclose(modelnet.rows[1], unit(said["night_stand"]["open_clip_text_feat"])[0], atol=1e-3)
    row = rows_by_id(modelnet.store)["vase_0008"]
    assert modelnet.store.category(row) == "vase"
    np.testing.assert_allclose(modelnet.store[row].points.rgb, 100 / 255, atol=1e-6)
    assert np.ptp(modelnet.store[row].points.xyz, axis=0).argmax() == 2  # tall along y in the file
    scans = convert(source("openshape", root, {**WORDS, "set": "scanobjectnn"}), tmp_path / "scans")
    assert scans.contract["colour in the files"] == "none: grey 0.4"
    assert scans.contract["points stored"] == "64 in the file, repeated to 200"
    assert scans.store.category(rows_by_id(scans.store)["scanobjectnn/17"]) == "box"
    assert "no official split" in scans.contract["from"]


def test_uni3ds_lists_become_stores(tmp_path: Path) -> None:
    made = write_uni3d(tmp_path / "uni3d")
    words = {**WORDS, "list": "points.json", "clouds": "pc", "images": "images.json", "filter": "filter.json", "val": "0", "test": "0"}
    held = convert(source("uni3d", tmp_path / "uni3d", words), tmp_path / "train")
    assert (len(held.store), held.store.width, held.teacher) == (6, UNI3D, "EVA02-E-14-plus:laion2b_s9b_b144k")
    at = rows_by_id(held.store)
    for k, one in enumerate(made):
        found = held.store[at[one["name"]]]
        assert len(found.image) == (0 if k == 2 else 10)
        text = [] if k == 1 else one["text"][: 1 if k % 2 else 2]
        wanted = [*text, one.get("blip_caption", one.get("blip_caption;")), *one["retrieval_text"]]
        np.testing.assert_allclose(found.text, unit(np.stack(wanted)), atol=1e-3)
        assert found.captions == ("",) * len(wanted)
    for name, size in {"lvis": 4, "modelnet40": 9, "scanobjectnn": 20}.items():
        test = convert(source("uni3d", tmp_path / "uni3d", {**WORDS, "set": name}), tmp_path / name)
        assert (len(test.store), test.teacher, len(test.rows)) == (size, "", 0)
    assert classes(test.store) == set(SCANNED)


def test_poison_costs_the_shape_and_is_named(tmp_path: Path) -> None:
    root = tmp_path / "openshape"
    made = write_openshape(root, 40)
    files = sorted((root / "Objaverse").rglob("*.npy"))
    bad = hostile(tmp_path / "trap")
    for path, name in zip(files, ("system 4", "truncated", "empty", "another class", "endless"), strict=False):
        path.write_bytes(bad[name][0])
    changes: list[dict[str, Any]] = [
        {"xyz": None},
        {"rgb": np.full((POINTS, 3), np.nan)},
        {"image_feat": np.ones((12, 7), np.float32)},
        {"text": 3},
        {"xyz": np.zeros((POINTS, 3))},
        {"blip_caption_feat": [1]},
    ]
    for path, change in zip(files[5:], changes, strict=False):
        held = np.load(path, allow_pickle=True).item()
        np.save(path, {**held, **change}, allow_pickle=True)  # type: ignore[arg-type]
    files[11].unlink()
    held = convert(source("openshape", root, WORDS), tmp_path / "out")
    lost = {one["id"].rpartition("/")[2]: one["reason"] for one in skipped(tmp_path / "out")}
    assert lost.keys() == {path.stem for path in files[:12]}
    assert not (tmp_path / "trap").exists()
    assert len(held.store) == len(made) - 12
    assert "the name posix.system" in lost[files[0].stem]
    assert "no such file" in lost[files[11].stem]
    assert held.contract["listed"] == 40
    assert held.contract["could be read"] == 28


class Leaving:
    """A source whose folder goes away when its first file is wanted."""

    def __init__(self, found: Source, away: Path) -> None:
        self._found, self._away = found, away

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found, name)

    def triplet(self, entry: Entry) -> Triplet:
        if not self._away.exists():
            self._found.root.rename(self._away)
        return self._found.triplet(entry)


def test_a_machine_that_loses_sight_of_the_files_leaves_none_out(tmp_path: Path) -> None:
    root, out = tmp_path / "openshape", tmp_path / "out"
    write_openshape(root, 8)
    found = source("openshape", root, WORDS)
    begun(found, out)
    with pytest.raises(DataError, match=rf"{root} on .*: got .*does not see {root}.*Try: see to its mounts"):
        convert(cast(Source, Leaving(found, tmp_path / "away")), out)
    (tmp_path / "away").rename(root)
    assert len(convert(found, out).store) == 8
    assert list(skipped(out)) == []


def test_a_file_that_came_later_is_converted_then(tmp_path: Path) -> None:
    root = tmp_path / "openshape"
    write_openshape(root, 8)
    path = next((root / "ShapeNet").rglob("*.npy"))
    path.rename(tmp_path / "aside.npy")
    found = source("openshape", root, WORDS)
    assert len(convert(found, tmp_path / "out").store) == 7
    (tmp_path / "aside.npy").rename(path)
    assert len(convert(source("openshape", root, WORDS), tmp_path / "out").store) == 8
    assert list(skipped(tmp_path / "out")) == []


def half_way(found: Source, folder: Path, there: Event) -> None:
    """Do as `work`, and stop before the third unit is written, while it is claimed."""
    written: list[int] = []
    write = converting.write_part

    def stops(shards: Shards, number: int, *held: Any, **sizes: Any) -> None:
        if len(written) == 2:
            there.set()
            time.sleep(10 * LATE)
        written.append(number)
        write(shards, number, *held, **sizes)

    converting.write_part = stops
    work(found, folder)


def test_a_killed_converter_loses_no_shape_and_several_share_the_work(tmp_path: Path) -> None:
    root = tmp_path / "openshape"
    made = write_openshape(root, 400)
    found = source("openshape", root, WORDS)
    begun(found, tmp_path / "out")
    context = multiprocessing.get_context("forkserver")
    there = context.Event()
    child = context.Process(target=half_way, args=(found, tmp_path / "out", there), daemon=True)
    child.start()
    assert there.wait(LATE)
    child.kill()
    child.join()
    assert [len(list((tmp_path / "out").glob(f"00*.{kind}"))) for kind in ("json", "claim")] == [2, 1]
    told: list[int] = []
    held = convert(found, tmp_path / "out", workers=2, progress=lambda stage, done, total: told.append(done))
    assert len(held.store) == len(made)
    assert told == sorted(told)
    assert told[-1] == 400
    assert not list((tmp_path / "out").glob("*.claim"))
    alone = convert(found, tmp_path / "alone")
    marks = [{path.name: path.read_bytes() for path in folder.glob("*.json")} for folder in (tmp_path / "out", tmp_path / "alone")]
    assert marks[0] == marks[1]
    assert alone.store.width == held.store.width


def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path: Path, openshape: tuple[Path, list[dict[str, Any]]]) -> None:
    root, _ = openshape
    convert(source("openshape", root, {**WORDS, "set": "modelnet40"}), tmp_path / "out")
    with pytest.raises(DataError, match="shapes of another source, or of other settings"):
        convert(source("openshape", root, {**WORDS, "set": "lvis"}), tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(DataError, match="other things in it"):
        convert(source("openshape", root, {**WORDS, "set": "lvis"}), tmp_path / "mine")
    with pytest.raises(DataError, match=r"train_all\.json"):
        convert(source("openshape", tmp_path / "mine", WORDS), tmp_path / "new")
    for words, said in (
        ({"set": "livs"}, "set=lvis"),
        ({"poinst": "3"}, r"points=\.\.\."),
        ({"points": "many"}, "a number"),
        ({"up": "w"}, "x, y or z"),
        ({"val": "0.7", "test": "0.3"}, "shares"),
        ({"set": "lvis", "val": "0.1"}, "no such word for this set"),
    ):
        with pytest.raises(RecipeError, match=said):
            source("openshape", root, words)
    with pytest.raises(RecipeError, match="PC_PATH"):
        source("uni3d", root, {})
    with pytest.raises(DataError, match="mrdist data convert"):
        ConvertedConfig(path=str(tmp_path / "mine")).converted()


def test_lists_that_leave_the_folder_find_nothing(tmp_path: Path) -> None:
    root = tmp_path / "openshape"
    write_openshape(root, 4)
    np.save(tmp_path / "secret.npy", np.zeros(3))
    path = root / "meta_data" / "split" / "train_all.json"
    rows = json.loads(path.read_text())
    rows[0]["data_path"] = "../secret.npy"
    path.write_text(json.dumps(rows))
    convert(source("openshape", root, WORDS), tmp_path / "out")
    (lost,) = skipped(tmp_path / "out")
    assert "no such file" in lost["reason"]


def test_clouds_of_any_size_become_the_same_number_of_points() -> None:
    random = np.random.default_rng(0)
    xyz, rgb = random.standard_normal((50, 3)), random.integers(0, 256, (50, 3))
    assert len(cloud(xyz, rgb, up="y", count=120)) == 120
    few = cloud(xyz, rgb, up="y", count=20)
    assert len(few) == 20
    np.testing.assert_array_equal(few.xyz, cloud(xyz, rgb, up="y", count=20).xyz)
    assert cloud(xyz, None, up="y", count=20).rgb[0, 0] == np.float32(0.4)
