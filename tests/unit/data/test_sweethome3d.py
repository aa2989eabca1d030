"""What the furniture reader promises: true names, honest splits, and nothing written where it should not be."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mrdist.data.readers import read_mesh
from mrdist.data.sampling import sample
from mrdist.data.sources.furniture_names import CLASSES, captions, label, spoken
from mrdist.data.sources.sh3f import Item, Library, properties
from mrdist.data.sources.sweethome3d import FurnitureConfig
from mrdist.errors import DataError
from mrdist.recipe import Limits
from tests.shared import mrdist_shared

HEADER = "id=test\nname=Test library\nlicense=Creative Commons Attribution 3.0 Unported license\nprovider=example\n"
MTL = b"newmtl red\nKd 1 0 0\n"


def obj(size: float = 1.0) -> bytes:
    """A wedge, one unit wide, two deep, `size` high."""
    return f"mtllib m.mtl\nusemtl red\nv 0 0 0\nv 1 0 0\nv 0 {size} 0\nv 0 0 2\nvn 0 1 0\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n".encode()


def library(path: Path, table: str, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", (HEADER + table).encode("latin-1"))
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def entry(n: int, name: str, model: str, **more: str) -> str:
    rows = {"id": f"test#{n}", "name": name, "model": model, "multiPartModel": "true", **more}
    return "".join(f"{key}#{n}={value}\n" for key, value in rows.items())


def left_out(root: Path) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in map(json.loads, (root / "left_out.jsonl").read_text().splitlines())}


def test_a_library_becomes_a_catalogue_with_names_creators_and_licences(tmp_path: Path) -> None:
    files = {"test/a/a.obj": obj(), "test/a/m.mtl": MTL, "test/b.obj": obj(2), "test/c/c.obj": obj(3), "test/c/m.mtl": MTL}
    table = entry(1, "Caf\\u00e9 chair", "/test/a/a.obj", tags="Seat, Test library, Anna", category="Kitchen", creator="Anna")
    table += entry(2, "Bookcase 45x160", "/test/b.obj", multiPartModel="false", license="Free Art License 1.3")
    table += entry(10, "Water wheel", "/test/c/c.obj")
    library(tmp_path / "test.sh3f", table, files)
    chair, bookcase, wheel = FurnitureConfig(path=str(tmp_path)).open(tmp_path / "store")
    assert (chair.id, chair.category, chair.licence, chair.up) == ("test#1", "chair", "CC-BY-3.0", "y")
    assert chair.captions == ("a café chair", "a chair", "a café chair: seat", "a café chair for the kitchen")
    assert chair.source == "Sweet Home 3D, test, by Anna"
    assert (bookcase.category, bookcase.captions, bookcase.licence) == ("bookcase", ("a bookcase",), "FAL-1.3")
    assert (wheel.category, wheel.captions) == ("", ("a water wheel",))
    root = FurnitureConfig(path=str(tmp_path)).open(tmp_path / "store").root
    mesh = read_mesh(chair.mesh, up="y", root=root, limits=Limits())
    np.testing.assert_allclose(sample(mesh, 100, seed=0).rgb, [[1, 0, 0]] * 100, atol=0.02)
    assert left_out(root) == {}


def test_what_nobody_can_read_is_named_and_stops_nothing(tmp_path: Path) -> None:
    table = entry(1, "Chair", "/a/a.obj") + entry(2, "Bed", "/b/b.3ds") + entry(3, "Lamp", "/c/c.obj") + entry(4, "Sofa", "/d.zip")
    table += entry(5, "Table", "/a/a.obj", id="test#1")
    library(tmp_path / "t.sh3f", table, {"a/a.obj": obj(), "b/b.3ds": b"MM", "d.zip": b"PK no zip"})
    catalog = FurnitureConfig(path=str(tmp_path / "t.sh3f")).open(tmp_path / "store")
    assert [s.id for s in catalog] == ["test#1"]
    reasons = left_out(catalog.root)
    assert "a model ending in .3ds" in reasons["test#2"]
    assert "no file c/c.obj" in reasons["test#3"]
    assert "zip" in reasons["test#4"]
    assert reasons["test#1"] == "its id was there before"


@pytest.mark.parametrize("name", ["../../evil.obj", "/evil/evil.obj", "a/../../../evil.obj", "a\\..\\..\\evil.obj"])
def test_a_name_that_leaves_the_folder_writes_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    source = Library(library(tmp_path / "deep/er/t.sh3f", "", {name: obj()}))
    with pytest.raises(DataError, match=r"wanted a name inside the library|wanted the model in its library"):
        source.unpack(Item("x", "X", name), tmp_path / "deep/er/out", limit=1 << 20)
    source.close()
    assert list(tmp_path.rglob("*.obj")) == []


def test_a_bomb_costs_one_model(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.sh3f", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("PluginFurnitureCatalog.properties", HEADER + entry(1, "Chair", "/a/a.obj") + entry(2, "Bed", "/b/b.obj"))
        archive.writestr("a/a.obj", obj())
        archive.writestr("b/b.obj", obj())
        archive.writestr("b/big.png", b"\0" * (3 << 20))
    catalog = FurnitureConfig(path=str(tmp_path), limit_mb=2).open(tmp_path / "store")
    assert [s.id for s in catalog] == ["test#1"]
    assert left_out(catalog.root) == {"test#2": "got 3 MB unpacked, wanted at most 2 MB"}


def test_a_full_disk_leaves_no_model_out(tmp_path: Path) -> None:
    """A limit on file sizes fails a write, as a full disk does."""
    table, large = (
        entry(1, "Chair", "/a.obj", multiPartModel="false") + entry(2, "Bed", "/b.obj", multiPartModel="false"),
        obj() + b"#" * 65536,
    )
    path = library(tmp_path / "t.sh3f", table, {"a.obj": obj(), "b.obj": large})
    code = """
import sys, resource
from pathlib import Path
from mrdist.data.sources.sweethome3d import FurnitureConfig
from mrdist.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, 1 << 15))
try:
    FurnitureConfig(path=sys.argv[1]).open(Path(sys.argv[2]))
except DataError as wrong:
    print(wrong)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "store")], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert "Try: see to its mounts, its disk" in done.stdout
    assert list((tmp_path / "store").iterdir()) == []
    assert len(FurnitureConfig(path=str(path)).open(tmp_path / "store")) == 2


def test_models_in_a_zip_inside_the_library_are_found(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("deep/m.mtl", MTL)
        archive.writestr("deep/model.obj", obj())
    table = entry(1, "Chair", "/a.zip!/deep/model.obj") + entry(2, "Chair", "/b.zip")
    library(tmp_path / "t.sh3f", table, {"a.zip": inner.getvalue(), "b.zip": inner.getvalue()})
    catalog = FurnitureConfig(path=str(tmp_path)).open(tmp_path / "store")
    assert [s.mesh.name for s in catalog] == ["model.obj", "model.obj"]
    assert all((s.mesh.parent / "m.mtl").is_file() for s in catalog)


def test_a_model_that_lies_is_turned_upright_once(tmp_path: Path) -> None:
    table = entry(1, "Lamp", "/a/a.obj", modelRotation="1 0 0 0 0 1 0 -1 0") + entry(2, "Lamp", "/a/a.obj")
    table += entry(3, "Lamp", "/a/a.obj", modelRotation="1 0 0 0 0 1 0 -1 0")
    library(tmp_path / "t.sh3f", table, {"a/a.obj": obj(5)})
    lamp, lying, again = FurnitureConfig(path=str(tmp_path)).open(tmp_path / "store")
    assert lamp.mesh.read_bytes() == again.mesh.read_bytes()
    assert lying.mesh.read_bytes() == obj(5)
    rows = [line.split() for line in lamp.mesh.read_text().splitlines()]
    assert [r[1:] for r in rows if r and r[0] == "v"] == [["0", "0", "0"], ["1", "0", "0"], ["0", "0", "-5"], ["0", "2", "0"]]
    assert [r[1:] for r in rows if r and r[0] == "vn"] == [["0", "0", "-1"]]
    assert next(r for r in rows if r and r[0] == "f") == ["f", "1", "3", "2"]


def test_a_properties_file_is_read_as_java_does() -> None:
    text = "# note\n! note\nname#1=Caf\\u00e9\ntags\\ x : a, \\\n    b\nempty=\npath=c\\:\\\\x\\tz\nalone\n"
    assert properties(text) == {"name#1": "Café", "tags x": "a, b", "empty": "", "path": "c:\\x\tz", "alone": ""}


def test_a_library_without_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.sh3f").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"t\.sh3f: got .* wanted a zip file with PluginFurnitureCatalog"):
        FurnitureConfig(path=str(tmp_path)).open(tmp_path / "store")


def test_nothing_found_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got no models in .*wanted \.sh3f libraries.*Try: apt-get install sweethome3d-furniture"):
        FurnitureConfig(path=str(tmp_path)).open(tmp_path / "store")


@pytest.mark.parametrize(
    ("name", "said", "kind"),
    [
        ("Bookcase 45x160", "bookcase", "bookcase"),
        ("Corner shelf maple", "maple wood corner shelf", "shelf"),
        ("Japanese maple", "japanese maple", "tree"),
        ("Sofa 2 seats", "sofa two seats", "sofa"),
        ("TV 16:9", "tv", "television"),
        ("Double small window 2x3 panes with sill", "double small window panes with sill", "window"),
        ("Frame Water Lily", "framed picture: water lily", "picture"),
        ("Picture window", "picture window", "window"),
        ("Air conditioning - External unit", "air conditioning external unit", ""),
        ("Double-hung window", "double-hung window", "window"),
        ("Refridgerator", "refrigerator", "refrigerator"),
        ("Rain gutter Part 1", "rain gutter", ""),
        ("Bedside table cherry", "cherry wood bedside table", "bedside table"),
        ("Table with tablecloth", "table with tablecloth", "table"),
        ("Pool table", "pool table", ""),
        ("Apple iMac 1998", "apple imac", ""),
    ],
)
def test_names_are_spoken_and_classed_as_people_would(name: str, said: str, kind: str) -> None:
    assert (spoken(name), label(name)) == (said, kind)
    assert kind == "" or kind in CLASSES


def test_captions_have_articles_and_no_tag_twice() -> None:
    assert captions("Armchair", ("Seat", "armchairs", "4", "Decoration"), "") == ("an armchair", "an armchair: seat")
    assert captions("Scissors", (), "Office") == ("scissors", "scissors for the office")
    assert captions("Frame Tiger", ("Photo",), "") == ("a framed picture: tiger", "a picture", "a framed picture: tiger, photo")


def test_the_packed_models_open_and_their_splits_are_honest(tmp_path: Path) -> None:
    pack = mrdist_shared("sweethome3d")
    catalog = FurnitureConfig(path=str(pack)).open(tmp_path)
    assert len(catalog) == 1385
    assert all(s.captions and s.licence and "Sweet Home 3D" in s.source for s in catalog)
    counts = {split: len(catalog.split(split)) for split in ("train", "val", "test")}
    assert counts["test"] > 140
    assert counts["val"] > 60
    assert len(catalog.categories("test")) >= 30
    assert set(catalog.categories("test")) <= set(catalog.categories("train"))
    for category in catalog.categories():
        held = [s.split for s in catalog if s.category == category]
        assert set(held) == {"train"} if len(held) < 8 else held.count("test") >= 1

    names = {item["id"]: n for n, item in enumerate(json.loads((pack / "meta.json").read_text()))}
    with np.load(pack / "meshes.npz") as arrays:
        vertices, starts = arrays["verts"], arrays["vert_offset"]
    sides: dict[bytes, set[str]] = {}
    for shape in catalog:
        n = names[shape.id]
        sides.setdefault(vertices[starts[n] : starts[n + 1]].tobytes(), set()).add(shape.split)
    assert all(len(side) == 1 for side in sides.values()), "a recoloured twin is on both sides"


def test_a_packed_model_keeps_its_shape_and_face_colours(tmp_path: Path) -> None:
    pack = mrdist_shared("sweethome3d")
    small = tmp_path / "pack"
    small.mkdir()
    meta = json.loads((pack / "meta.json").read_text())
    with np.load(pack / "meshes.npz") as arrays:
        ends, faces = arrays["vert_offset"], arrays["face_offset"]
        held = {"verts": arrays["verts"][: ends[3]], "faces": arrays["faces"][: faces[3]], "face_colors": arrays["face_colors"][: faces[3]]}
    np.savez(small / "meshes.npz", **held, vert_offset=ends[:4], face_offset=faces[:4])
    (small / "meta.json").write_text(json.dumps(meta[:3]))
    catalog = FurnitureConfig(path=str(small)).open(tmp_path / "store")
    for n, shape in enumerate(catalog):
        mesh = read_mesh(shape.mesh, up="y", root=catalog.root, limits=Limits())
        wanted = held["face_colors"][faces[n] : faces[n + 1]].mean(0) / 255
        got = mesh.colour[mesh.faces].mean((0, 1))[:3]
        assert abs(len(mesh.faces) - (faces[n + 1] - faces[n])) <= 5  # slivers go
        linear = ((held["face_colors"][faces[n] : faces[n + 1]] / 255 + 0.055) / 1.055) ** 2.4
        np.testing.assert_allclose(got, linear.mean(0), atol=0.02, err_msg=str(wanted))
    (small / "meta.json").write_text(json.dumps(meta[:2]))
    with pytest.raises(DataError, match="got 2 names, 3 meshes"):
        FurnitureConfig(path=str(small)).open(tmp_path / "store")
