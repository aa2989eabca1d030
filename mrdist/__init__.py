"""mrdist: distil the relations that a vision-language model sees into 3D encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mrdist.encoder import Encoder, from_pretrained
    from mrdist.errors import MrdistError
    from mrdist.recipe import Recipe
    from mrdist.shapes import Points

# Looked up on first use, so that `mrdist --help` need not import torch.
_HOME = {
    "Encoder": "mrdist.encoder",
    "from_pretrained": "mrdist.encoder",
    "MrdistError": "mrdist.errors",
    "Recipe": "mrdist.recipe",
    "Points": "mrdist.shapes",
}

__all__ = ["Encoder", "MrdistError", "Points", "Recipe", "from_pretrained"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mrdist' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
