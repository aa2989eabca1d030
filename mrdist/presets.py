"""Which YAML files make a recipe: its base, its own values, presets, and words of the command line, merged into one plain tree."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mrdist.errors import RecipeError

GROUPS = {"data": "datasets", "teacher": "teachers", "student": "students", "objective": "objectives", "engine": "engines"}
"""Parts of a recipe that come in kinds: field -> group of kinds. Each has a folder of presets in configs/."""

GRID = "grid"
"""The section of a recipe's file over which `mrdist scale` repeats the recipe, and which nobody else reads."""


def layers(source: str | Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The plain tree of a recipe: its base, its own values, its presets and the changes, merged; defaults not filled in."""
    tree = _read(_find(source))
    tree.pop(GRID, None)
    base = tree.pop("base", None)
    tree = over({} if base is None else layers(str(base)), tree)
    for word in changes:
        tree = over(tree, parse(word))
    return tree


def grid(source: str | Path) -> dict[str, Any]:
    """The plain tree under `grid` of a recipe and its bases, merged; empty where there is none."""
    tree = _read(_find(source))
    below = grid(str(tree["base"])) if "base" in tree else {}
    own = tree.get(GRID) or {}
    if not isinstance(own, Mapping):
        raise RecipeError(what=f"{source}: {GRID}", got=repr(own), wanted="a mapping", try_="see configs/recipe/scaling/backbone.yaml")
    return _merge(below, own)


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, key by key; a preset in `above`, and what is said beside it, replaces the whole part that it meets."""
    said = {group: above.get(group) for group in GROUPS}
    chosen = [group for group, value in said.items() if isinstance(value, str) or (isinstance(value, Mapping) and "preset" in value)]
    return _merge({key: value for key, value in below.items() if key not in chosen}, _with_presets(above))


def presets(group: str) -> list[str]:
    """The names that `group=NAME` accepts: files of configs/<group>/."""
    folder = shipped() / group
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml")) if folder.is_dir() else []


def shipped() -> Path:
    """The folder of YAML files that travels with the package."""
    import mrdist_configs

    return Path(mrdist_configs.__file__).parent


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise RecipeError(what=str(source), got="no such file", wanted="a recipe", try_=f"a name: {', '.join(presets('recipe'))}")
    named = shipped() / "recipe" / f"{source}.yaml"
    if named.is_file():
        return named
    near = difflib.get_close_matches(str(source), presets("recipe"), n=1)
    raise RecipeError(
        what=f"recipe {source!r}",
        got="no such recipe, file or run folder",
        wanted=f"one of {', '.join(presets('recipe'))}",
        try_=near[0] if near else "a path that ends in .yaml",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, ValueError, OSError) as wrong:
        raise RecipeError(what=str(path), got=str(wrong).splitlines()[0], wanted="a YAML mapping", try_="see configs/recipe/") from None
    except Exception as wrong:  # PyYAML's errors have no common base in OmegaConf's interface
        raise RecipeError(what=str(path), got=str(wrong).replace("\n", " "), wanted="valid YAML", try_="check the indentation") from None
    if not isinstance(tree, dict):
        raise RecipeError(what=str(path), got=type(tree).__name__, wanted="a YAML mapping", try_="key: value lines")
    return cast("dict[str, Any]", tree)


def parse(word: str) -> dict[str, Any]:
    """The plain tree that a word `key=value` says.

    Raises:
        RecipeError: it is no such word.
    """
    key, equals, _ = word.partition("=")
    if not equals or not key:
        raise RecipeError(what=word, got="no key=value", wanted="key=value", try_=f"{word}=...")
    try:
        return cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.from_dotlist([word])))
    except Exception as wrong:
        raise RecipeError(
            what=word, got=str(wrong).replace("\n", " "), wanted="key=value", try_="quote values with spaces or brackets"
        ) from None


def _with_presets(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Replace `student: small` and `student: {preset: small, ...}` by what configs/student/small.yaml says."""
    out = dict(tree)
    for group in GROUPS:
        value = out.get(group)
        own: dict[str, Any] = {}
        if isinstance(value, Mapping) and "preset" in value:
            own = {k: v for k, v in value.items() if k != "preset"}
            value = value["preset"]
        if not isinstance(value, str):
            continue
        path = shipped() / group / f"{value}.yaml"
        if not path.is_file():
            near = difflib.get_close_matches(value, presets(group), n=1)
            raise RecipeError(
                what=f"{group}={value}",
                got="no such preset",
                wanted=f"one of {', '.join(presets(group))}",
                try_=f"{group}={near[0]}" if near else f"{group}.kind=...",
            )
        out[group] = _merge(_read(path), own)
    return out


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, key by key; a part of another kind replaces the part it meets."""
    out = dict(below)
    for key, value in above.items():
        held = out.get(key)
        if isinstance(value, Mapping) and isinstance(held, Mapping) and value.get("kind", held.get("kind")) == held.get("kind"):
            out[key] = _merge(held, value)
        else:
            out[key] = value
    return out
