"""What the embedded data promises: true captions, real files, classes that transfer, the same bytes everywhere."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from mrdist.data.readers import read_mesh
from mrdist.data.sampling import sample
from mrdist.data.sketch import COLOURS
from mrdist.data.solids import Solid, ball, box, cup, pillar, plate, pyramid, ring, rod
from mrdist.data.synthetic import CLASSES, VERSION, Class, SyntheticConfig, captions, draw
from mrdist.recipe import Limits

SEEN = [kind for kind in CLASSES if kind.seen]
UNSEEN = [kind for kind in CLASSES if not kind.seen]


@pytest.mark.parametrize(
    ("solid", "volume"),
    [
        (box(1, 2, 3), 6.0),
        (box(1, 1, 1, top=0.5), 7 / 12),
        (pyramid(1, 3, 2), 2.0),
        (pillar(1, 2), 2 * np.pi),
        (pillar(1, 3, 0.0), np.pi),
        (ball(1, sides=40), 4 / 3 * np.pi),
        (ring(1, 0.4, sides=60), 2 * np.pi * np.pi * 0.04),
        (cup([(0, 0), (1, 0), (1, 1)], 0.1, sides=60), np.pi * (1 - 0.81 * 0.9)),
        (rod([(0, 0, 0), (0, 1, 0)], 0.2, sides=40), np.pi * 0.01),
        (plate([(0, 0), (2, 0), (2, 1), (0, 1)], 0.5), 1.0),
    ],
)
def test_a_solid_has_its_volume_and_looks_outward_however_it_is_turned(solid: Solid, volume: float) -> None:
    for way in (solid, solid.turned("x", 90).turned("y", 30).turned("z", 10).moved(1, 2, 3)):
        a, b, c = (way.vertices[way.faces[:, n]] for n in range(3))
        across = np.cross(b - a, c - a)
        assert np.einsum("ij,ij->", a, np.cross(b, c)) / 6 == pytest.approx(volume, rel=0.05)
        for n in range(3):
            assert (np.einsum("ij,ij->i", across, way.normals[way.faces[:, n]]) > 0).all()
        np.testing.assert_allclose(np.linalg.norm(way.normals, axis=1), 1, atol=1e-9)


def test_there_is_enough_to_learn_and_enough_to_transfer_to() -> None:
    assert len(SEEN) >= 24
    assert len(UNSEEN) >= 5
    assert len({kind.name for kind in CLASSES}) == len(CLASSES)


def test_names_of_unseen_classes_never_occur_in_training_but_all_their_words_do() -> None:
    said = [caption for kind in SEEN for n in range(12) for caption in captions(kind, draw(kind, "train", n, 0))]
    words = {word for caption in said for word in re.findall(r"\w+", caption)}
    for kind in UNSEEN:
        assert set(kind.name.split()) <= words
        assert not any(re.search(rf"\b{kind.name}\b", caption) for caption in said)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.name)
def test_a_file_is_a_real_mesh_and_its_captions_name_it_and_its_colour(kind: Class, tmp_path: Path) -> None:
    for n in range(3):
        sketch = draw(kind, "train", n, 0)
        path = tmp_path / f"{n}.glb"
        path.write_bytes(sketch.file())
        mesh = read_mesh(path, up="y", root=tmp_path, limits=Limits())
        assert len(mesh.faces) == sum(len(solid.faces) for solids in sketch.pieces.values() for solid in solids)
        said = captions(kind, sketch)
        assert len(said) >= 2
        assert all(kind.name in caption or sketch.sentences for caption in said)
        main = sketch.main()
        if main is None or main.second is not None:
            continue
        names = list(COLOURS)
        table = np.array([COLOURS[name] for name in names])
        seen = np.abs(sample(mesh, 2000, seed=0).rgb[:, None] - table).sum(-1).argmin(1)
        assert main.words == names[np.bincount(seen, minlength=len(names)).argmax()]


def test_numbers_in_captions_are_counted() -> None:
    for n in range(20):
        stool = draw(next(kind for kind in CLASSES if kind.name == "stool"), "train", n, 0)
        seat, *legs = stool.pieces.values()
        ringed = any("ring between" in part for part in stool.parts)
        assert len(seat) == 1
        assert any(part.startswith({3: "three", 4: "four"}[len(legs[0]) - ringed]) for part in stool.parts)


def test_a_configuration_gives_the_same_bytes_wherever_it_is_written(tmp_path: Path) -> None:
    config = SyntheticConfig(train=1, val=0, test=1, unseen=1)
    first, second = config.open(tmp_path / "a"), config.open(tmp_path / "b")
    assert [s.sha256 for s in first] == [s.sha256 for s in second]
    assert all(hashlib.sha256(s.mesh.read_bytes()).hexdigest() == s.sha256 for s in first)
    assert (
        first.fingerprint
        == second.fingerprint
        != SyntheticConfig(train=1, val=0, test=1, unseen=1, seed=1).open(tmp_path / "a").fingerprint
    )
    assert {s.licence for s in first} == {"CC0"}
    assert len({s.sha256 for s in first}) == len(first)


def test_what_was_written_is_not_written_again(tmp_path: Path) -> None:
    config, calls = SyntheticConfig(train=1, val=0, test=0, unseen=0), []
    config.open(tmp_path, lambda stage, done, total: calls.append((done, total)))
    assert (calls[0], calls[-1]) == ((0, len(SEEN)), (len(SEEN), len(SEEN)))
    calls.clear()
    assert len(config.open(tmp_path, lambda stage, done, total: calls.append((done, total)))) == len(SEEN)
    assert calls == []


def test_more_shapes_change_none_of_the_others(tmp_path: Path) -> None:
    few, many = (SyntheticConfig(train=n, val=n, test=0, unseen=n).open(tmp_path) for n in (1, 2))
    assert {(s.id, s.sha256, s.captions) for s in few} < {(s.id, s.sha256, s.captions) for s in many}


def test_splits_hold_the_classes_they_should(tmp_path: Path) -> None:
    catalog = SyntheticConfig(train=2, val=1, test=1, unseen=1).open(tmp_path)
    held = defaultdict(list)
    for shape in catalog:
        held[shape.split].append(shape.category)
    assert {split: len(names) for split, names in held.items()} == {
        "train": 2 * len(SEEN),
        "val": len(SEEN),
        "test": len(SEEN),
        "unseen": len(UNSEEN),
    }
    assert set(held["train"]) == set(held["test"]) == {kind.name for kind in SEEN}
    assert set(held["unseen"]) == {kind.name for kind in UNSEEN}


def test_other_shapes_or_captions_count_up_the_version() -> None:
    facts: list[object] = []
    for kind in CLASSES:
        sketch = draw(kind, "train", 0, 0)
        sizes = [[round(solid.area(), 2), len(solid.faces)] for solids in sketch.pieces.values() for solid in solids]
        facts.append([kind.name, captions(kind, sketch), sizes])
    found = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    assert (VERSION, found) == (1, "69a006fae1f7"), "stores of the old version would be taken for the new one: raise VERSION, then pin this"
