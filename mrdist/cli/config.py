"""`mrdist config show|explain|diff`: what a recipe says, and what its keys mean."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from mrdist.cli.main import DONE, Flags
from mrdist.errors import RecipeError
from mrdist.presets import GROUPS, presets
from mrdist.recipe import Recipe, load, plain, to_yaml


def config(words: Sequence[str], flags: Flags) -> int:
    """Show a recipe, explain one key, or compare two recipes."""
    verb, rest = (words[0], list(words[1:])) if words else ("", [])
    if verb == "show" and not rest:
        print("\n".join(presets("recipe")))
    elif verb == "show":
        recipe = load(rest[0], rest[1:])
        print(json.dumps(plain(recipe), indent=1) if flags.json else to_yaml(recipe), end="\n" if flags.json else "")
    elif verb == "explain" and rest:
        print(explain(rest[0], load(rest[1], rest[2:]) if len(rest) > 1 else load("smoke")))
    elif verb == "diff" and len(rest) >= 2:
        print(diff(load(rest[0]), load(rest[1], rest[2:])))
    else:
        raise RecipeError(
            what="mrdist config",
            got=" ".join(words) or "nothing",
            wanted="show [RECIPE], explain KEY [RECIPE], diff RECIPE RECIPE",
            try_="mrdist config show smoke",
        )
    return DONE


def explain(key: str, recipe: Recipe) -> str:
    """What one key means: its type, its value in `recipe`, the comment beside its definition, and the presets of a group.

    Raises:
        RecipeError: the key does not exist; the message carries the nearest one.
    """
    owner: Any = recipe
    *above, last = key.split(".")
    for name in above:
        owner = getattr(owner, name, None)
    names = [f.name for f in fields(owner)] if is_dataclass(owner) else []
    if last not in names:
        known = sorted(_keys(recipe, ""))
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.4) or [k for k in known if k.endswith(f".{last}")][:1]
        raise RecipeError(
            what=f"key {key!r}",
            got="no such key",
            wanted="a key of the recipe",
            try_=f"mrdist config explain {near[0]}" if near else "mrdist config show smoke",
        )
    kind = next(f.type for f in fields(owner) if f.name == last)
    value = getattr(owner, last)
    lines = [f"{key}: {kind}", f"  {comment(type(owner), last)}".rstrip()]
    if is_dataclass(value):
        lines.append(f"  {(type(value).__doc__ or '').strip().splitlines()[0]}")
        lines += [f"  {key}.{f.name} = {getattr(value, f.name)!r}   {comment(type(value), f.name)}".rstrip() for f in fields(value)]
    else:
        lines.append(f"  here: {value!r}")
    if key in GROUPS:
        lines.append(f"  presets: {', '.join(presets(key))}")
    return "\n".join(line for line in lines if line.strip())


def comment(owner: type, name: str) -> str:
    """The comment beside, or above, a field in the source of its dataclass."""
    lines = inspect.getsource(owner).splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if re.match(rf"\s+{re.escape(name)}\s*:", line):
            _, mark, beside = line.partition("  # ")
            return beside if mark else before.strip().removeprefix("# ") if before.strip().startswith("# ") else ""
    return ""


def diff(one: Recipe, other: Recipe) -> str:
    """The keys in which two recipes differ, a line each."""
    a, b = (dict(_leaves(plain(recipe), "")) for recipe in (one, other))
    lines = [f"{key}: {a.get(key, '-')} -> {b.get(key, '-')}" for key in sorted(a.keys() | b.keys()) if a.get(key, "-") != b.get(key, "-")]
    return "\n".join(lines) or "no difference"


def _keys(tree: Any, prefix: str) -> list[str]:
    out = []
    for f in fields(tree):
        below = getattr(tree, f.name)
        out.append(prefix + f.name)
        if is_dataclass(below):
            out += _keys(below, f"{prefix}{f.name}.")
    return out


def _leaves(tree: Any, prefix: str) -> list[tuple[str, Any]]:
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() for leaf in _leaves(value, f"{prefix}.{key}" if prefix else key)]
    return [(prefix, tree)]
