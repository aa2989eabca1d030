"""Which class a name stands for: objectives, students, and what installed plugins add."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points

from mrdist.errors import RecipeError


@dataclass(frozen=True)
class Part:
    """A part of a recipe that comes in several kinds; each kind is a frozen dataclass that knows how to build itself.

    A kind may have two methods that raise an MrdistError: `check(recipe)` for values that mean nothing, which every `load` calls, and
    `look()` for what they name and this machine has not, which is called before anything is spent, and not where one only plans.
    """

    kind: str = ""


# Addresses, not classes: naming a kind must not import the other kinds, nor the layers above this one.
BUILT_IN: dict[str, dict[str, str]] = {
    "objectives": {
        "mrd": "mrdist.objectives.mrd:MRDConfig",
    },
    "students": {
        "vit": "mrdist.students.vit:ViTConfig",
        "pointbert": "mrdist.students.pointbert:PointBERTConfig",
    },
    "engines": {
        "plain": "mrdist.training.engine:PlainConfig",
        "zero": "mrdist.training.zero:ZeroConfig",
    },
    "datasets": {
        "synthetic": "mrdist.data.synthetic:SyntheticConfig",
        "folder": "mrdist.data.sources.folder:FolderConfig",
        "furniture": "mrdist.data.sources.sweethome3d:FurnitureConfig",
        "converted": "mrdist.data.converted:ConvertedConfig",
    },
    "teachers": {
        "clip": "mrdist.teachers.clip:ClipConfig",
        "fitted": "mrdist.teachers.fit:FittedConfig",
        "precomputed": "mrdist.teachers.precomputed:PrecomputedConfig",
    },
}


def known(group: str) -> dict[str, str]:
    """Every kind of a group, ours and the plugins' (entry points `mrdist.<group>`), as `name -> module:class`."""
    plugins = {e.name: e.value for e in entry_points(group=f"mrdist.{group}")}
    return {**plugins, **BUILT_IN[group]}


def kind(group: str, name: str) -> type[Part]:
    """The config class that `name` stands for.

    Raises:
        RecipeError: nobody registered that name.
    """
    table = known(group)
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        raise RecipeError(
            what=f"kind of {group.removesuffix('s')}",
            got=repr(name),
            wanted=f"one of {', '.join(sorted(table))}",
            try_=f"kind: {near[0]}" if near else "spell it as in that list",
        )
    module, _, attribute = table[name].partition(":")
    found: type[Part] = getattr(import_module(module), attribute)
    return found
