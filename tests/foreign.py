"""OpenShape's and Uni3D's files as they lie on disk, small and with random content; and files that nobody should unpickle."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrdist.data.sources.testsets import SCANNED

OPENSHAPE, UNI3D = 1280, 1024
"""Lengths of a row of ViT-bigG-14 and of EVA02-E-14-plus."""

POINTS = 200


def features(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return random.standard_normal(shape).astype(np.float32) * 7


def openshape_shape(dataset: str, group: str, uid: str, seed: int) -> dict[str, Any]:
    """One shape with every field that OpenShape documents; box of 1 x 2 x 4, y up, far from the origin."""
    random = np.random.default_rng(seed)

    def said(count: int) -> list[dict[str, Any]]:
        return [{"original": features(random, 1, OPENSHAPE), "prompt_avg": features(random, 1, OPENSHAPE)} for _ in range(count)]

    (blip,), (msft,) = said(1), said(1)
    held = {
        "dataset": dataset,
        "group": group,
        "id": uid,
        "xyz": (random.uniform(size=(POINTS, 3)) * [1, 2, 4] + 10).astype(np.float32),
        "rgb": random.uniform(size=(POINTS, 3)),
        "image_feat": features(random, 12, OPENSHAPE),
        "text": [f"{uid} by its maker", "another word"],
        "text_feat": said(2),
        "blip_caption": f"blip of {uid}",
        "blip_caption_feat": blip,
        "msft_caption": "" if seed % 2 else f"msft of {uid}",
        "msft_caption_feat": msft,
        "retrieval_text": [f"retrieved {k}" for k in range(seed % 3)],
        "retrieval_text_feat": said(seed % 3),
    }
    return {**held, "thumbnail_feat": features(random, 1, OPENSHAPE)} if dataset == "Objaverse" else held


def write_openshape(root: Path, shapes: int = 70) -> list[dict[str, Any]]:
    """Lists, filters and shapes below `root`; every shape as it was written."""
    split = root / "meta_data" / "split" / "ablation"
    split.mkdir(parents=True)
    made, rows = [], []
    for k in range(shapes):
        dataset, group = ("Objaverse", f"000-{k % 3:03d}") if k % 4 else ("ShapeNet", "02691156")
        one = openshape_shape(dataset, group, f"{k:032x}", k)
        folder = root / dataset / group
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{one['id']}.npy", one, allow_pickle=True)  # type: ignore[arg-type]
        # The lists carry the paths of the machine that they were made on.
        rows.append({"dataset": dataset, "group": group, "id": one["id"], "data_path": f"/mnt/data/{dataset}/{group}/{one['id']}.npy"})
        made.append(one)
    tested = [{"uid": r["id"], "group": r["group"], "category": ("Lego", "CD_player", "ax")[k % 3], "data_path": r["data_path"]}
              for k, r in enumerate(rows) if r["dataset"] == "Objaverse"]  # fmt: skip
    (split.parent / "train_all.json").write_text(json.dumps(rows))
    (split.parent / "train_no_lvis.json").write_text(json.dumps(rows[:1]))
    (split / "train_shapenet_only.json").write_text(json.dumps([row for row in rows if row["dataset"] == "ShapeNet"]))
    (split.parent / "lvis.json").write_text(json.dumps(tested))
    flags = {row["id"]: {"flag": "N" if k % 5 == 0 else "Y"} for k, row in enumerate(rows) if row["dataset"] == "Objaverse"}
    (root / "meta_data" / "gpt4_filtering.json").write_text(json.dumps(flags))
    np.save(root / "meta_data" / "lvis_cat_name_pt_feat.npy", features(np.random.default_rng(0), 3, OPENSHAPE))
    return made


def write_test_sets(folder: Path, *, tables: bool) -> None:
    """modelnet40/ and scanobjectnn/ as both projects publish them; the tables of classes only OpenShape does."""
    random = np.random.default_rng(1)
    names = ["airplane", "night_stand", "vase"]
    modelnet, scans = folder / "modelnet40", folder / "scanobjectnn"
    modelnet.mkdir(parents=True)
    scans.mkdir()
    clouds = [
        {"xyz": (random.standard_normal((POINTS, 3)) * [1, 3, 1]).astype(np.float32), "rgb": np.full((POINTS, 3), 100, np.uint8)}
        for _ in range(9)
    ]
    (modelnet / "test_split.json").write_text(json.dumps([{"name": f"{names[k % 3]}_{k:04d}", "category": names[k % 3]} for k in range(9)]))
    np.save(modelnet / "test_pc.npy", np.array(clouds, dtype=object), allow_pickle=True)
    labels = np.arange(20) % 15
    scanned = {"xyz": random.standard_normal((20, 64, 3)).astype(np.float32), "label": labels}
    np.save(scans / "xyz_label.npy", scanned, allow_pickle=True)  # type: ignore[arg-type]
    if tables:
        for place, classes in ((modelnet, names), (scans, list(SCANNED))):
            said = {name: {"open_clip_text_feat": features(random, 1, OPENSHAPE)} for name in classes}
            np.save(place / "cat_name_pt_feat.npy", said, allow_pickle=True)  # type: ignore[arg-type]


def write_uni3d(root: Path, shapes: int = 6) -> list[dict[str, Any]]:
    """points.json, images.json, filter.json and what they name; and test_datasets/."""
    made, points, images, flags = [], {}, {}, {}
    for k in range(shapes):
        random = np.random.default_rng(100 + k)
        name, place = f"{k:032x}", f"000-{k:03d}-Objaverse" if k % 2 else "ShapeNet"
        (root / "pc" / place).mkdir(parents=True, exist_ok=True)
        one = {
            "xyz": random.standard_normal((POINTS, 3)).astype(np.float32),
            "rgb": random.uniform(size=(POINTS, 3)).astype(np.float32),
            "text": [features(random, UNI3D), features(random, UNI3D)],
            "blip_caption;" if k == 3 else "blip_caption": features(random, UNI3D),
            "msft_caption": "a sentence that nobody embedded",
            "retrieval_text": [features(random, UNI3D) for _ in range(k % 3)],
        }
        np.save(root / "pc" / place / f"{name}.npy", one, allow_pickle=True)  # type: ignore[arg-type]
        points[name] = f"/{place}/{name}.npy"
        if k != 2:
            (root / "views" / name).mkdir(parents=True)
            images[name] = [f"/views/{name}/{view}" for view in range(10)]
            for path in images[name]:
                np.save(f"{root}{path}.npy", features(random, UNI3D))
        flags[name] = {"flag": "N" if k == 1 else "Y"}
        made.append({**one, "name": name})
    for name, tree in (("points", points), ("images", images), ("filter", flags)):
        (root / f"{name}.json").write_text(json.dumps(tree))
    tests = root / "test_datasets"
    write_test_sets(tests, tables=False)
    (tests / "objaverse_lvis" / "000-001").mkdir(parents=True)
    lines = []
    for k in range(4):
        one = openshape_shape("Objaverse", "000-001", f"{k:x}", k)
        np.save(tests / "objaverse_lvis" / "000-001" / f"{k:x}.npy", one, allow_pickle=True)  # type: ignore[arg-type]
        lines.append(f"{k % 2},{('Lego', 'arctic_(type_of_shoe)')[k % 2]},{k:x},/000-001/{k:x}.npy\n")
    (tests / "objaverse_lvis" / "lvis_testset.txt").write_text("".join(lines))
    return made


class _Runs:
    """Unpickling it calls something."""

    def __init__(self, call: Callable[..., Any], *given: Any) -> None:
        self.call, self.given = call, given

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.given


def npy(payload: bytes, shape: str = "()") -> bytes:
    """An .npy file of objects whose pickle is `payload`."""
    about = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00v\x00" + about.ljust(117) + b"\n" + payload


def hostile(trap: Path) -> dict[str, tuple[bytes, str]]:
    """Files by name, each with what the error must say; those that run code would make `trap`."""
    whole = npy(pickle.dumps(np.array({"xyz": np.zeros((50, 3))}, dtype=object), protocol=3))
    calls = {
        "system": _Runs(os.system, f"touch {trap}"),
        "eval": _Runs(eval, f"open({str(trap)!r}, 'w')"),
        "in a dict": {"xyz": np.zeros(3), "text": [_Runs(open, str(trap), "w")]},
        "in an array": np.array([1, _Runs(os.mkdir, str(trap))], dtype=object),
    }
    files = {f"{name} {protocol}": (npy(pickle.dumps(thing, protocol)), r"the name (posix|nt|builtins|__builtin__|_?io)\.")
             for name, thing in calls.items() for protocol in (0, 2, 4)}  # fmt: skip
    mine = npy(pickle.dumps(OrderedDict(a=1), 4))
    begun = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02f8I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntb"
    return {
        **files,
        "another class": (mine, "the name collections.OrderedDict"),
        "instance": (npy(b"(iposix\nsystem\n."), "the instruction INST"),
        "new object": (npy(b"cnumpy\nndarray\n)\x81."), "the instruction NEWOBJ"),
        "persistent": (npy(b"Pthing\n."), "the instruction PERSID"),
        "extension": (npy(b"\x82\x01."), "the instruction EXT1"),
        "state for a name": (npy(b"cnumpy\ndtype\n(N}U\x08__call__Nstb."), "a state for something else"),
        "call of an array": (npy(begun + b"(U\x01atR."), "a call of something else"),
        "objects for numbers": (npy(pickle.dumps(np.array([{1: 2}, {}], dtype=object), 4)), "other keys than names"),
        "a table": (npy(pickle.dumps(np.empty((2, 2), dtype=object), 4)), "an array of objects that is no list"),
        "records": (npy(pickle.dumps(np.zeros(2, dtype=[("a", "f4")]), 4)), "type V4"),
        "truncated": (whole[: len(whole) // 2], "a damaged file"),
        "no pickle": (whole[:128], "a damaged file"),
        "no array": (b"not an array at all" * 20, "a damaged file"),
        "empty": (b"", "a damaged file"),
        "a shape that lies": (npy(begun + b"(I1\n(L99999999999L\nt" + dtype + b"I00\nC\x08abcdefghtb."), "a damaged file|without"),
        "a negative shape": (npy(begun + b"(I1\n(I-1\nt" + dtype + b"I00\nC\x08abcdefghtb."), "without a shape"),
        "bytes that are not there": (npy(b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f."), "a damaged file"),
        "a huge memo": (npy(b"Nr\xff\xff\xff\x7f."), "a memo of absurd size"),
        "endless": (npy(b"N0" * 200_000 + b"."), "more than [0-9]+ instructions"),
        "a name that is a list": (npy(b"]]\x93."), "a name that is no text"),
        "numbers for names": (npy(b"}K\x01K\x02s."), "other keys than names"),
        "two results": (npy(b"NN."), "a damaged file"),
        "underflow": (npy(b"00."), "a damaged file"),
    }
