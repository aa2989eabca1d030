"""Sentences around the name of a class, and the classes of a catalogue as rows of a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrdist.errors import DataError, RecipeError
from mrdist.progress import Progress, silent

Texts = Callable[[Sequence[str]], NDArray[np.float32]]
"""Unit rows of N sentences, as `Teacher.texts` gives them."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "name": ("{}",),
    "shapes": (
        "{a}",
        "a 3D model of {a}",
        "a picture of {a}",
        "a rendering of {a}",
        "a rendered image of {a} on a plain background",
        "a computer graphic of {a}",
        "a coloured 3D object, {a}",
        "a point cloud of {a}",
        "one {}",
        "this is {a}",
    ),
}
"""Our own sets. `{a}` becomes the name with its article, `{}` the bare name. Those of other projects come as files: `templates`."""

AT_ONCE = 4096
"""Sentences given to a teacher in one call."""

_VOWEL_SPELT_SOUNDS_LIKE_CONSONANT = ("uni", "use", "usu", "ute", "uti", "eu", "ewe", "one", "once", "ufo", "ukulele", "u-")
_CONSONANT_SPELT_SOUNDS_LIKE_VOWEL = ("hour", "honest", "honour", "heir")
_EXCEPT = ("unin", "unim")  # uninhabited, unimportant


def templates(name: str) -> tuple[str, ...]:
    """A set of templates by name, or from a file: one per line, or JSON.

    Args:
        name: a key of TEMPLATES; a text file; a JSON file with a list; or FILE.json:KEY for a JSON file of named lists, so that Uni3D's
            64 sentences are "templates.json:modelnet40_64".

    Raises:
        RecipeError: no such set, file or key; or a template without a place for the name.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    file, _, key = name.partition(".json:")
    path = Path(f"{file}.json" if key else name)
    try:
        text = path.read_text(encoding="utf-8")
        held: Any = json.loads(text) if path.suffix == ".json" else [line for line in text.splitlines() if line.strip()]
        held = held[key] if key else held
    except (OSError, ValueError, LookupError, TypeError) as wrong:
        raise RecipeError(
            what=f"templates {name!r}", got=str(wrong), wanted=f"one of {', '.join(TEMPLATES)}, or a file", try_="evaluate.templates=shapes"
        ) from None
    if not isinstance(held, list) or not held or not all(isinstance(line, str) and ("{}" in line or "{a}" in line) for line in held):
        raise RecipeError(
            what=f"templates {name!r}", got="no list of sentences with a place for a name", wanted="sentences with {} or {a}", try_="a {}."
        )
    return tuple(held)


def in_file(name: str) -> bool:
    """Whether a set of templates that is none of ours is meant to be read from a file."""
    return name not in TEMPLATES and (Path(name).suffix != "" or Path(name).exists())


def spoken(name: str) -> str:
    """The name of a category as one would say it: "night_stand" is a night stand."""
    return " ".join(name.replace("_", " ").split())


def article(name: str) -> str:
    """ "a" or "an", by the sound that a name begins with."""
    word = name.lower()
    if word.startswith(_CONSONANT_SPELT_SOUNDS_LIKE_VOWEL):
        return "an"
    if word.startswith(_VOWEL_SPELT_SOUNDS_LIKE_CONSONANT) and not word.startswith(_EXCEPT):
        return "a"
    return "an" if word[:1] in ("a", "e", "i", "o", "u") else "a"


def sentence(template: str, name: str) -> str:
    """A template, filled: `{a}` takes its article from the name, `{}` takes nothing."""
    said = spoken(name)
    return template.replace("{a}", f"{article(said)} {said}").replace("{}", said)


def class_table(names: Sequence[str], sentences: Sequence[str], texts: Texts, *, progress: Progress = silent) -> NDArray[np.float32]:
    """One unit row per class, `[C, E]`: the normalised mean of its normalised sentences (Radford et al., 2021, section 3.1.4).

    Args:
        names: of the classes, all different.
        sentences: templates, see TEMPLATES.
        texts: the teacher.

    Raises:
        DataError: no class, or two classes that read the same.
    """
    said = [spoken(name) for name in names]
    twice = sorted({name for name in said if said.count(name) > 1}) if len(set(said)) < len(said) else []
    if not said or twice:
        raise DataError(
            what="classes",
            got=f"{twice[0]!r} more than once" if twice else "none",
            wanted="names that differ",
            try_="give every category its own name" if twice else "a catalogue with categories",
        )
    rows = []
    per_call = max(1, AT_ONCE // len(sentences))
    for first in range(0, len(names), per_call):
        some = names[first : first + per_call]
        held = np.asarray(texts([sentence(template, name) for name in some for template in sentences]), dtype=np.float64)
        held /= np.maximum(np.linalg.norm(held, axis=1, keepdims=True), 1e-12)
        middle = held.reshape(len(some), len(sentences), -1).mean(1)
        rows.append(middle / np.maximum(np.linalg.norm(middle, axis=1, keepdims=True), 1e-12))
        progress("classes", first + len(some), len(names))
    return np.concatenate(rows).astype(np.float32)
