"""Which reader a set of another project needs, from the words of a command line."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from mrdist.data.catalog import check_shares
from mrdist.data.sources.foreign import Source
from mrdist.data.sources.openshape import LISTS, OpenShape
from mrdist.data.sources.testsets import ModelNet40, ScanObjectNN
from mrdist.data.sources.uni3d import Uni3D, Uni3DLvis
from mrdist.errors import RecipeError

Words = Mapping[str, str]
Kind = TypeVar("Kind", int, float)

_TESTS: dict[str, Callable[[Path, int, str], Source]] = {"modelnet40": ModelNet40, "scanobjectnn": ScanObjectNN}

SETS: dict[str, tuple[str, ...]] = {
    "openshape": (*LISTS, *_TESTS),
    "uni3d": ("train", "lvis", *_TESTS),
}
"""Projects, and the sets of each; the first is the one that is meant where nothing is said."""

_EVERY = ("set", "points", "up")
_TRAIN = (*_EVERY, "val", "test")
_PLACES = ("list", "clouds", "images", "views", "filter")


def source(project: str, folder: Path, words: Words) -> Source:
    """The reader of a set.

    Args:
        folder: what the project's archives were unpacked into.
        words: `set`, `points` (per cloud), `up` (of the files: x, y, z); for sets to train on `val` and `test` (shares held out);
            `meta` (OpenShape: the folder of meta_data.zip); `list`, `clouds`, `images`, `views`, `filter`, from `folder` on (Uni3D:
            PC_PATH, PC_PATH_ROOT, IMAGE_PATH, IMAGE_PATH_ROOT, GPT_FILTER).

    Raises:
        RecipeError: no such project, set or word, or a value that means nothing.
    """
    if project not in SETS:
        raise RecipeError(
            what="project", got=repr(project), wanted=f"one of {', '.join(SETS)}", try_="mrdist data convert openshape FOLDER"
        )
    chosen = words.get("set", SETS[project][0])
    if chosen not in SETS[project]:
        near = difflib.get_close_matches(chosen, SETS[project], n=1, cutoff=0.3)
        try_ = f"set={near[0] if near else SETS[project][0]}"
        raise RecipeError(what=f"set={chosen}", got="no such set", wanted=f"one of {', '.join(SETS[project])}", try_=try_)
    folder = folder.expanduser().resolve()
    found = _openshape(folder, chosen, words) if project == "openshape" else _uni3d(folder, chosen, words)
    if found.up not in ("x", "y", "z"):
        raise RecipeError(what="up", got=repr(found.up), wanted="x, y or z", try_="leave it out: the files are y up")
    if found.points < 1:
        raise RecipeError(what="points", got=found.points, wanted="at least 1", try_="points=10000")
    return found


def _openshape(folder: Path, chosen: str, words: Words) -> Source:
    meta = Path(words["meta"]).expanduser().resolve() if "meta" in words else folder / "meta_data"
    if chosen in _TESTS:
        return _test(meta / chosen, chosen, _only(words, *_EVERY, "meta"))
    _only(words, *(_EVERY if chosen == "lvis" else _TRAIN), "meta")
    val, test = _shares(words)
    return OpenShape(folder, meta, chosen, _points(words), words.get("up", "y"), val, test)


def _uni3d(folder: Path, chosen: str, words: Words) -> Source:
    if chosen == "train":
        _only(words, *_TRAIN, *_PLACES)
        if "list" not in words:
            try_ = "list=points.json clouds=FOLDER images=images.json views=FOLDER filter=gpt4_filtering.json"
            raise RecipeError(what="list", got="nothing", wanted="the JSON file that Uni3D calls PC_PATH", try_=try_)
        at = {name: folder / words[name] for name in _PLACES if name in words}
        val, test = _shares(words)
        return Uni3D(
            at.get("clouds", folder), at["list"], at.get("images"), at.get("views", folder), at.get("filter"),
            _points(words), words.get("up", "y"), val, test,
        )  # fmt: skip
    _only(words, *_EVERY)
    inner = "objaverse_lvis" if chosen == "lvis" else chosen
    places = (folder / "test_datasets" / inner, folder / inner, folder)
    place = next((place for place in places if place.is_dir()), folder)
    return Uni3DLvis(place, _points(words), words.get("up", "y")) if chosen == "lvis" else _test(place, chosen, words)


def _test(folder: Path, chosen: str, words: Words) -> Source:
    return _TESTS[chosen](folder, _points(words), words.get("up", "y"))


def _points(words: Words) -> int:
    return _number("points", words.get("points", "10000"), int)


def _shares(words: Words) -> tuple[float, float]:
    val, test = (_number(name, words.get(name, "0.005"), float) for name in ("val", "test"))
    check_shares(val, test)
    return val, test


def _number(name: str, said: str, kind: Callable[[str], Kind]) -> Kind:
    try:
        return kind(said)
    except ValueError:
        raise RecipeError(what=name, got=repr(said), wanted="a number", try_=f"leave {name} out") from None


def _only(words: Words, *known: str) -> Words:
    for word in words:
        if word not in known:
            near = difflib.get_close_matches(word, known, n=1, cutoff=0.3)
            try_ = f"{near[0]}=..." if near else "leave it out"
            raise RecipeError(what=f"{word}=", got="no such word for this set", wanted=f"one of {', '.join(known)}", try_=try_)
    return words
