"""One part of a store of triplets, written and read: points, image and text embeddings of some shapes, complete in itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mrdist.data.contents import Rows
from mrdist.data.shards import INDEX, Arrays, Shards, Unit, pack, split, unit_name
from mrdist.data.tensors import Places, Tensors
from mrdist.errors import DataError
from mrdist.shapes import Triplet

Half = NDArray[np.float16]


def write_part(shards: Shards, number: int, triplets: Sequence[Triplet], splits: Sequence[str], *, width: int, points: int) -> Unit:
    """Write some triplets as one part.

    Arrays: `xyz` float16 [K, N, 3], `rgb` uint8 [K, N, 3], `image` float16 [sum V, E] and `text` float16 [sum T, E], whose rows of shape
    k are `image_at[k]:image_at[k + 1]`; captions as UTF-8, one per row of `text`. The marker lists ids, splits and categories.

    Args:
        width: E, which a part without a single view must know too.
        points: N, likewise.
    """
    assert len(triplets) == len(splits)

    def stacked(clouds: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.stack(clouds) if clouds else np.zeros((0, points, 3), np.float32)

    def rows(blocks: list[Half]) -> tuple[Half, Rows]:
        at = np.concatenate([[0], np.cumsum([len(block) for block in blocks])]).astype(np.int64)
        return np.concatenate([np.zeros((0, width), np.float16), *blocks]), at

    image, image_at = rows([t.image for t in triplets])
    text, text_at = rows([t.text for t in triplets])
    captions, captions_at = pack(caption for t in triplets for caption in t.captions)
    assert len(captions_at) - 1 == len(text), "one caption per text embedding"
    arrays: Arrays = {
        "xyz": stacked([t.points.xyz for t in triplets]).astype(np.float16),
        "rgb": np.rint(stacked([t.points.rgb for t in triplets]) * 255).astype(np.uint8),
        "image": image,
        "image_at": image_at,
        "text": text,
        "text_at": text_at,
        "captions": captions,
        "captions_at": captions_at,
    }
    ids, categories = [t.id for t in triplets], [t.category for t in triplets]
    return shards.write(unit_name(number), arrays, {"ids": ids, "splits": list(splits), "categories": categories})


def write_index(shards: Shards, parts: int, *, width: int, points: int) -> Unit:
    """Say that all `parts` are there: one small file from which a store of millions opens at once.

    Raises:
        DataError: a part is missing or damaged, or two shapes have one id.
    """
    markers = [shards.unit(unit_name(number)) for number in range(parts)]
    ids = [name for marker in markers for name in marker.notes["ids"]]
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(
            what=str(shards.folder), got=f"id {twice[0]!r} more than once", wanted="one row per shape", try_="rename it in the catalogue"
        )

    def codes(field: str) -> tuple[list[str], NDArray[np.int32]]:
        values = [value for marker in markers for value in marker.notes[field]]
        names = sorted(set(values))
        code = {name: i for i, name in enumerate(names)}
        return names, np.array([code[value] for value in values], dtype=np.int32)

    splits, split_of = codes("splits")
    categories, category_of = codes("categories")
    packed, ids_at = pack(ids)
    begins = np.concatenate([[0], np.cumsum([len(marker.notes["ids"]) for marker in markers])]).astype(np.int64)
    arrays: Arrays = {"begins": begins, "split": split_of, "category": category_of, "ids": packed, "ids_at": ids_at}
    files = [marker.sha256 for marker in markers]
    return shards.write(
        INDEX, arrays, {"width": width, "points": points, "shapes": len(ids), "splits": splits, "categories": categories, "parts": files}
    )


class Row(NamedTuple):
    """One shape as it is stored; arrays are read-only."""

    xyz: Half  # [N, 3]
    rgb: NDArray[np.uint8]  # [N, 3]
    image: Half  # [V, E]
    text: Half  # [T, E]


class Layout(NamedTuple):
    """Where in a part things are: a few kilobytes, that need not be read again when the part is opened again."""

    path: Path
    places: Places
    at: dict[str, Rows]  # of "image", "text" and "captions": where each shape's rows, and each caption's bytes, begin


class Part:
    """One part, open; where things are is in memory, the things are not."""

    def __init__(self, tensors: Tensors, at: dict[str, Rows] | None = None) -> None:
        self.tensors = tensors
        self.at = at or {name: tensors[f"{name}_at"] for name in ("image", "text", "captions")}

    @classmethod
    def again(cls, layout: Layout) -> Self:
        """A part that was open before.

        Raises:
            DataError: its file is gone.
        """
        return cls(Tensors(layout.path, layout.places), layout.at)

    @property
    def layout(self) -> Layout:
        """What `again` wants."""
        return Layout(self.tensors.path, self.tensors.places, self.at)

    def embeddings(self, name: str, k: int) -> Half:
        first, last = self.at[name][k : k + 2]
        return self.tensors.rows(name, int(first), int(last))

    def captions(self, k: int) -> tuple[str, ...]:
        first, last = self.at["text"][k : k + 2]
        at = self.at["captions"][first : last + 1]
        packed = self.tensors.rows("captions", int(at[0]), int(at[-1]))
        return tuple(caption.decode() for caption in split(packed, at - at[0]))
