"""Lets timm and open_clip import where torchvision was built for CUDA and torch was not.

torchvision's own library then cannot be loaded, the schemas of its operators are missing, and `import torchvision` dies with
"operator torchvision::nms does not exist" (pytorch/vision #9077, #9085). The two schemas that its Python code refers to while
it is imported are enough: all of it works but its compiled operators (nms, roi_align, ...) and codecs, which mrdist does not use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Literal

_kept: list[Any] = []  # A torch.library.Library that is collected takes its schemas with it.


def ensure_torchvision() -> Literal["native", "shimmed", "absent"]:
    """Import torchvision if it is there; call this before the first import of timm or open_clip.

    Raises:
        RuntimeError: torchvision is broken in another way.
    """
    try:
        import_module("torchvision")
        return "shimmed" if _kept else "native"
    except ModuleNotFoundError as wrong:
        if wrong.name == "torchvision":
            return "absent"
        raise
    except RuntimeError as wrong:
        if _kept or "torchvision::" not in str(wrong):
            raise
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    import torch

    schemas: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        schemas.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(schemas)
    import_module("torchvision")
    return "shimmed"
