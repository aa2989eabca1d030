"""What tests of teachers share: pictures, and real open_clip models that are small and know nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from mrdist.teachers.library import open_clip

VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
LOOKS = {
    "size": 32,
    "mode": "RGB",
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
    "interpolation": "bilinear",
    "resize_mode": "longest",
    "fill_color": 0,
}


def pictures(count: int, *, height: int = 40, width: int = 56, seed: int = 0) -> list[bytes]:
    """JPEG files of coloured noise, each different."""
    random = np.random.default_rng(seed)
    return [jpeg(random.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(count)]


def jpeg(pixels: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "JPEG", quality=95)
    return held.getvalue()


def checkpoint(folder: Path, *, seed: int = 0, looks: dict[str, object] | None = None, **more: object) -> Path:
    """A folder that open_clip opens as `local-dir:`, with random weights."""
    description = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, **more}
    torch.manual_seed(seed)
    library = open_clip()
    custom = description.get("custom_text")
    build = {name: value for name, value in description.items() if name != "custom_text"}
    model = (library.CustomTextCLIP if custom else library.CLIP)(**build)
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": description, "preprocess_cfg": LOOKS | (looks or {})}))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder
