"""What a catalogue promises before a byte of a mesh is read."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from mrdist.data.catalog import Catalog, made_once
from mrdist.errors import DataError
from mrdist.shapes import Shape


def meshes(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"OFF\n" + name.encode())
    return root


def manifest(root: Path, *rows: object) -> Path:
    path = root / "catalog.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["catalog.jsonl", "catalog.parquet"])
def test_what_was_written_is_read_again_also_from_another_place(tmp_path: Path, name: str) -> None:
    root = meshes(tmp_path / "here", "a/one.glb", "two.obj")
    shapes = [
        Shape("1", root / "a/one.glb", ("a chair", "ein Stuhl für Anna"), "chair", "y", "test", "me", "CC0", "ab" * 32),
        Shape("2", root / "two.obj", (), "", "z", "train"),
    ]
    written = Catalog.write(root / name, shapes)
    assert Catalog.open(root) == written == Catalog(root, tuple(shapes))
    root.rename(tmp_path / "there")
    assert [s.mesh for s in Catalog.open(tmp_path / "there" / name)] == [tmp_path / "there/a/one.glb", tmp_path / "there/two.obj"]


def test_a_folder_of_meshes_alone_speaks_through_its_names(tmp_path: Path) -> None:
    catalog = Catalog.open(meshes(tmp_path, "office_chairs/redChair-03.glb", "table.STL", "notes.md", ".cache/x.obj"), up="z")
    assert {s.id: (s.captions, s.category, s.up) for s in catalog} == {
        "office_chairs/redChair-03.glb": (("red chair",), "office chairs", "z"),
        "table.STL": (("table",), "", "z"),
    }


def test_one_text_file_gives_captions_and_leaves_the_other_meshes_without(tmp_path: Path) -> None:
    meshes(tmp_path, "a.glb", "b.glb", "c.glb")
    (tmp_path / "captions.txt").write_text("a.glb\ta red chair\nb.glb\ta table\n\na.glb\ta seat\n")
    assert [s.captions for s in Catalog.open(tmp_path)] == [("a red chair", "a seat"), ("a table",), ()]


def test_a_csv_file_has_the_columns_of_a_manifest(tmp_path: Path) -> None:
    meshes(tmp_path, "a.glb", "b.glb")
    (tmp_path / "captions.csv").write_text('file,caption,category,license\na.glb,"red, tall",chair,CC0\nb.glb,,table,\n')
    a, b = Catalog.open(tmp_path)
    assert (a.captions, a.category, a.licence) == (("red, tall",), "chair", "CC0")
    assert (b.captions, b.category, b.licence) == ((), "table", "")


@pytest.mark.parametrize("mesh", ["../out.glb", "a/../../out.glb", "/etc/hosts.glb", "link.glb", "folder/out.glb"])
def test_no_path_leaves_the_folder(tmp_path: Path, mesh: str) -> None:
    meshes(tmp_path, "out.glb", "in/a.glb")
    (tmp_path / "in/link.glb").symlink_to(tmp_path / "out.glb")
    (tmp_path / "in/folder").symlink_to(tmp_path)
    with pytest.raises(DataError, match="leaves the folder"):
        Catalog.open(manifest(tmp_path / "in", {"mesh": mesh}))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"mesh": "a.glb", "up": "w"}, "got up 'w'"),
        ({"mesh": "a.glb", "split": "dev"}, "got split 'dev'"),
        ({"mesh": "a.glb", "captoins": ["a chair"]}, "rename it to 'captions'"),
        ({"mesh": "a.glb", "captions": [1]}, "got captions of type list"),
        ({"mesh": "a.glb", "category": 3}, "got category of type int"),
        ({"captions": ["a chair"]}, "wanted a mesh"),
        (["a.glb"], "got list, wanted an object"),
    ],
)
def test_a_row_that_makes_no_sense_is_named_with_its_line(tmp_path: Path, row: object, said: str) -> None:
    meshes(tmp_path, "a.glb", "b.glb")
    with pytest.raises(DataError, match=said) as found:
        Catalog.open(manifest(tmp_path, {"mesh": "b.glb", "unrelated column": 1}, row))
    assert "catalog.jsonl:2" in found.value.what


def test_files_that_are_no_manifests_say_why(tmp_path: Path) -> None:
    path = meshes(tmp_path, "a.glb") / "catalog.jsonl"
    path.write_text('{"mesh": "a.glb"}\n{"mesh": \n')
    with pytest.raises(DataError, match=r"jsonl:2: got .*wanted one JSON object per line"):
        Catalog.open(path)
    path.write_bytes(b'{"mesh": "a.glb", "captions": ["caf\xe9"]}')
    with pytest.raises(DataError, match="wanted text in UTF-8"):
        Catalog.open(path)
    path = path.rename(tmp_path / "catalog.parquet")
    with pytest.raises(DataError, match="wanted a Parquet file"):
        Catalog.open(path)
    path = path.rename(tmp_path / "captions.txt")
    path.write_text("a.glb a chair\n")
    with pytest.raises(DataError, match="got no tab"):
        Catalog.open(path)
    (tmp_path / "captions.csv").write_text("file,caption\n")
    with pytest.raises(DataError, match=r"got captions\.txt and captions\.csv, wanted one of them"):
        Catalog.open(tmp_path)
    with pytest.raises(DataError, match="got no such file or folder"):
        Catalog.open(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="got no shapes"):
        Catalog.open(tmp_path / "empty")


def test_ids_are_unique(tmp_path: Path) -> None:
    meshes(tmp_path, "a.glb", "b.glb")
    with pytest.raises(DataError, match="1 ids more than once: chair"):
        Catalog.open(manifest(tmp_path, {"id": "chair", "mesh": "a.glb"}, {"id": "chair", "mesh": "b.glb"}))


def test_missing_meshes_are_named_and_counted_or_left_out_on_request(tmp_path: Path) -> None:
    meshes(tmp_path, "a.glb")
    path = manifest(tmp_path, {"mesh": "a.glb"}, {"mesh": "b.glb"}, {"mesh": "c.glb"})
    with pytest.raises(DataError, match=r"2 of 3 meshes missing: b\.glb, c\.glb"):
        Catalog.open(path)
    partial = Catalog.open(path, partial=True)
    assert ([s.id for s in partial], partial.missing) == (["a.glb"], ("b.glb", "c.glb"))
    (tmp_path / "a.glb").unlink()
    with pytest.raises(DataError, match="3 of 3"):
        Catalog.open(path, partial=True)


def test_a_split_by_hash_holds_out_its_share_and_never_moves_a_shape(tmp_path: Path) -> None:
    meshes(tmp_path, *(f"{n}.glb" for n in range(1000)))
    before = {s.id: s.split for s in Catalog.open(tmp_path, val=0.1, test=0.2)}
    assert 160 < sum(split == "test" for split in before.values()) < 240
    assert 70 < sum(split == "val" for split in before.values()) < 130
    meshes(tmp_path, *(f"new-{n}.glb" for n in range(100)))
    after = {s.id: s.split for s in Catalog.open(tmp_path, val=0.1, test=0.2)}
    assert {name: after[name] for name in before} == before


def test_a_fingerprint_knows_the_content_and_not_the_place(tmp_path: Path) -> None:
    root = meshes(tmp_path / "here", "a.glb", "b.glb")
    a, b = Shape("a", root / "a.glb", ("a chair",)), Shape("b", root / "b.glb", ("a table",))
    same = Catalog.write(root / "catalog.jsonl", [a, b]).fingerprint
    assert Catalog(root, (b, a)).fingerprint == same
    for other in (
        replace(a, captions=("a stool",)),
        replace(a, category="chair"),
        replace(a, up="z"),
        replace(a, split="test"),
        replace(a, sha256="0"),
    ):
        assert Catalog(root, (other, b)).fingerprint != same
    root.rename(tmp_path / "there")
    os.utime(tmp_path / "there/a.glb", (1, 1))
    assert Catalog.open(tmp_path / "there").fingerprint == same
    (tmp_path / "there/a.glb").write_bytes(b"longer than it was")
    assert Catalog.open(tmp_path / "there").fingerprint != same


def test_splits_and_categories_are_views_of_one_catalogue(tmp_path: Path) -> None:
    root = meshes(tmp_path, "a.glb", "b.glb", "c.glb")
    rows = [
        {"mesh": f"{n}.glb", "category": c, "split": s} for n, c, s in (("a", "table", "train"), ("b", "chair", "test"), ("c", "", "test"))
    ]
    catalog = Catalog.open(manifest(root, *rows))
    assert [s.id for s in catalog.split("test")] == ["b.glb", "c.glb"]
    assert (len(catalog.split("unseen")), catalog.categories(), catalog.categories("test")) == (0, ("chair", "table"), ("chair",))
    with pytest.raises(DataError, match="got 'dev', wanted one of train, val, test, unseen"):
        catalog.split("dev")


def test_a_manifest_only_lists_meshes_beside_it(tmp_path: Path) -> None:
    meshes(tmp_path, "a.glb", "in/b.glb")
    with pytest.raises(DataError, match="wanted a mesh inside"):
        Catalog.write(tmp_path / "in/catalog.jsonl", [Shape("a", tmp_path / "a.glb")])
    assert not (tmp_path / "in/catalog.jsonl").exists()


def test_what_is_made_once_is_whole_or_not_there_and_never_made_twice(tmp_path: Path) -> None:
    def broken(folder: Path) -> list[Shape]:
        meshes(folder, "a.glb")
        raise KeyboardInterrupt

    def fine(folder: Path) -> list[Shape]:
        return [Shape("a", meshes(folder, "a.glb") / "a.glb")]

    with pytest.raises(KeyboardInterrupt):
        made_once(tmp_path / "store/made", broken)
    assert list((tmp_path / "store").iterdir()) == []
    assert made_once(tmp_path / "store/made", fine) == made_once(tmp_path / "store/made", broken)
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["made"]


def test_words_that_utf_8_cannot_write_are_spelt_out(tmp_path: Path) -> None:
    (tmp_path / "a.glb").write_bytes(b"x")
    (tmp_path / "catalog.jsonl").write_text('{"id": "half \\\\ud83d", "mesh": "a.glb", "captions": ["a \\\\ud83d chair"]}\n')
    (shape,) = Catalog.open(tmp_path)
    assert shape.id.encode()
    assert shape.captions[0].encode()
