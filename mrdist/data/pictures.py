"""Pictures for people: a cloud drawn as it stands, and sheets of views and clouds."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from mrdist.shapes import Bytes, Float

GROUND = 217


def cloud(xyz: Float, rgb: Float, *, pixels: int = 224, azimuth: float = 30.0, elevation: float = 20.0) -> Bytes:
    """A cloud as a picture `[pixels, pixels, 3]`: orthographic, z up, nearer points over farther ones.

    One look shows whether up is up and whether colours arrived.

    Args:
        xyz: [N, 3] inside the unit sphere.
        rgb: [N, 3] in 0..1.
        azimuth, elevation: where the camera stands, degrees.
    """
    a, e = np.radians([azimuth, elevation])
    right = np.array([-np.sin(a), np.cos(a), 0])
    back = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
    x, y, depth = xyz @ right, xyz @ np.cross(back, right), xyz @ back
    out = np.full((pixels, pixels, 3), GROUND, np.uint8)
    size = max(1, pixels // 112)
    column = ((x * 0.48 + 0.5) * (pixels - size)).astype(int).clip(0, pixels - size)
    row = ((0.5 - y * 0.48) * (pixels - size)).astype(int).clip(0, pixels - size)
    # Farther points are a little darker, so that the form shows without light.
    shade = (0.65 + 0.35 * (depth + 1) / 2)[:, None]
    colour = (rgb * shade * 255).clip(0, 255).astype(np.uint8)
    order = np.argsort(depth, kind="stable")
    for dx in range(size):
        for dy in range(size):
            out[row[order] + dy, column[order] + dx] = colour[order]
    return out


def sheet(rows: Sequence[Sequence[Bytes]], labels: Sequence[str] = ()) -> Bytes:
    """Pictures of one size in rows, `[H, W, 3]`, with a line of text above each row if `labels` are given."""
    from PIL import Image, ImageDraw

    pixels = rows[0][0].shape[0]
    head = 14 if labels else 0
    width = max(len(row) for row in rows) * (pixels + 2)
    page = Image.new("RGB", (width, len(rows) * (pixels + head + 2)), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    for r, row in enumerate(rows):
        top = r * (pixels + head + 2)
        if labels:
            draw.text((2, top + 1), labels[r][: width // 6].encode("latin-1", "replace").decode("latin-1"), fill=(0, 0, 0))
        for c, picture in enumerate(row):
            page.paste(Image.fromarray(picture), (c * (pixels + 2), top + head))
    return np.asarray(page)


def decode(encoded: bytes) -> Bytes:
    """A stored view as `[H, W, 3]` uint8."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
