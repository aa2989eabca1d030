"""OpenShape's data as it lies on disk: an .npy pickle per shape, lists, filters, features of ViT-bigG-14 (arXiv 2305.10764)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mrdist.data.catalog import hashed_split
from mrdist.data.sources import pickled
from mrdist.data.sources.foreign import LVIS, NOTHING, SHAPE_LIMIT, Entry, Table, cloud, field, measured_under, shape_file, tree, unit_rows
from mrdist.errors import DataError
from mrdist.shapes import Triplet

LISTS = ("train_all", "train_no_lvis", "ablation/train_shapenet_only", "lvis")
"""Sets by the name of their list; `lvis` is the test set, the others are trained on."""

TEACHER = "ViT-bigG-14:laion2b_s39b_b160k"


@dataclass(frozen=True)
class OpenShape:
    """One of its lists. Below `root` lie the unpacked archives, below `meta` what `meta_data.zip` held."""

    root: Path
    meta: Path
    chosen: str = "train_all"
    points: int = 10_000
    up: str = "y"  # of the files; their loader swaps y and z
    val: float = 0.005  # shares that are held out, where the list is one to train on
    test: float = 0.005

    teacher = TEACHER

    def entries(self) -> Sequence[Entry]:
        """The shapes of the list.

        Raises:
            DataError: there is no such list, or it is none.
        """
        path = self.meta / "split" / f"{self.chosen}.json"
        rows = tree(path)
        if not isinstance(rows, list) or not rows:
            raise DataError(what=path, got=type(rows).__name__, wanted="a list of shapes", try_="unpack meta_data.zip again")
        return [self._entry(row) for row in rows]

    def triplet(self, entry: Entry) -> Triplet:
        """A shape, its pictures' rows and its sentences' rows: first what its maker wrote, then captions, then what was retrieved.

        As in their loader: texts and captions with the mean over prompts, retrieved sentences as they are; of an Objaverse shape only
        the first text, and none that their filter calls noise. Of the test set, the cloud alone.

        Raises:
            DataError: as `Source.triplet`.
        """
        held = shape_file(self.root, entry)
        points = cloud(held.get("xyz"), held.get("rgb"), up=self.up, count=self.points)
        if self.chosen == "lvis":
            return Triplet(entry.id, entry.category, points, NOTHING, NOTHING)
        image = unit_rows([held.get("image_feat"), held.get("thumbnail_feat")])
        texts = [(caption, unit_rows([feature])) for caption, feature in _sentences(held, entry)]
        text = unit_rows([rows for _, rows in texts if rows.size])
        captions = tuple(caption for caption, rows in texts for _ in rows)
        return Triplet(entry.id, entry.category, points, image, text, captions)

    def table(self) -> Table | None:
        """What the teacher said of the 1,156 classes, in the order of their names.

        Raises:
            DataError: the table is there, and not of these classes.
        """
        path = self.meta / "lvis_cat_name_pt_feat.npy"
        if self.chosen != "lvis" or not path.is_file():
            return None
        names = tuple(sorted({entry.category for entry in self.entries()}))
        rows = unit_rows([pickled.read(path, limit=SHAPE_LIMIT)]).astype(np.float32)
        if len(rows) != len(names):
            raise DataError(what=path, got=f"{len(rows)} rows", wanted=f"one for each of {len(names)} classes", try_="unpack it again")
        return Table(names, rows, path.name)

    def contract(self) -> dict[str, str]:
        """As `Source.contract`."""
        named = LVIS if self.chosen == "lvis" else self.chosen
        return measured_under(f"{named}, OpenShape's files", self)

    def _entry(self, row: Any) -> Entry:
        test = self.chosen == "lvis"
        uid = field(row, "id", "uid")
        dataset = row.get("dataset") or "Objaverse"
        name = "/".join(str(part) for part in (dataset, row.get("group"), uid) if part)
        split = "test" if test else hashed_split(name, self.val, self.test)
        useful = test or dataset != "Objaverse" or self._flags.get(uid, {}).get("flag") != "N"
        return Entry(name, field(row, "data_path"), split, field(row, "category") if test else "", free_text=useful)

    @cached_property
    def _flags(self) -> Mapping[str, Mapping[str, str]]:
        """What GPT-4 said of the texts of Objaverse: "N" is noise."""
        found: Mapping[str, Mapping[str, str]] = tree(self.meta / "gpt4_filtering.json")
        return found


def _sentences(held: Mapping[str, Any], entry: Entry) -> Iterator[tuple[str, Any]]:
    """Sentences and their features."""
    texts = list(zip(held.get("text") or [], held.get("text_feat") or [], strict=False))
    if entry.free_text:
        yield from _pairs(texts[:1] if entry.id.startswith("Objaverse/") else texts, "prompt_avg")
    for name in ("blip_caption", "msft_caption"):
        if held.get(name):
            yield from _pairs([(held[name], held.get(f"{name}_feat"))], "prompt_avg")
    yield from _pairs(zip(held.get("retrieval_text") or [], held.get("retrieval_text_feat") or [], strict=False), "original")


def _pairs(pairs: Any, version: str) -> Iterator[tuple[str, Any]]:
    for text, feature in pairs:
        if not isinstance(text, str) or not isinstance(feature, Mapping):
            got = f"{type(text).__name__} with {type(feature).__name__}"
            raise DataError(what="texts", got=got, wanted="sentences with features", try_="fetch its file again")
        yield text, feature.get(version)
