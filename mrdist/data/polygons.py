"""What the polygon formats share: fans of triangles, colours per face, colours as numbers of unknown kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrdist.data.colour import linear
from mrdist.shapes import Float


def fans(lengths: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Polygons cut into triangles that share their first corner.

    Args:
        lengths: [P] corners of each polygon; those with fewer than three give nothing.

    Returns:
        triangles [F, 3] rows of all corners, one polygon after the other; polygon [F] the polygon of each triangle.
    """
    lengths = np.asarray(lengths, np.int64)
    starts = np.cumsum(lengths) - lengths
    each = np.maximum(lengths - 2, 0)
    polygon = np.repeat(np.arange(len(lengths)), each)
    step = np.arange(len(polygon)) - np.repeat(np.cumsum(each) - each, each)
    first = starts[polygon]
    return np.stack([first, first + step + 1, first + step + 2], axis=1), polygon


def light(colours: NDArray[Any]) -> Float:
    """[N, 4] linear light and alpha of sRGB colours [N, 3 or 4], given as integers, as 0..1 or as 0..255.

    An alpha that hides everything is an exporter's zero, not a wish.
    """
    if colours.dtype.kind in "ui":
        scale = 65535.0 if colours.dtype.itemsize == 2 else 255.0
    else:
        scale = 255.0 if len(colours) and np.nanmax(colours) > 1 else 1.0
    unit = (np.asarray(colours, np.float32) / np.float32(scale)).clip(0, 1)
    alpha = unit[:, 3:] if unit.shape[1] > 3 and np.any(unit[:, 3] > 0) else np.ones((len(unit), 1), np.float32)
    return np.concatenate([linear(unit[:, :3]), alpha], axis=1)


def split(faces: NDArray[Any], colours: Float) -> tuple[NDArray[np.int64], NDArray[np.int64], Float]:
    """Vertices repeated where faces of different colours meet.

    Args:
        faces: [F, 3] rows of some vertices.
        colours: [F, 4] one colour per face, in 0..1.

    Returns:
        faces [F, 3] rows of the repeated vertices; origin [N] the old row of each; colours [N, 4].
    """
    palette, shade = np.unique(colours, axis=0, return_inverse=True)
    key = faces.astype(np.int64) * len(palette) + shade.reshape(-1, 1)
    rows, corners = np.unique(key.ravel(), return_inverse=True)
    return corners.reshape(-1, 3).astype(np.int64), rows // len(palette), palette[rows % len(palette)]


def numbers(lines: Sequence[bytes] | bytes) -> NDArray[np.float64]:
    """All numbers of some text, read up to the first word that is none."""
    text = lines if isinstance(lines, bytes) else b" ".join(lines)
    # The text mode of fromstring is C all the way: ten times faster than split() and float().
    return np.fromstring(text.decode("ascii", "replace"), dtype=np.float64, sep=" ")


def utf8(data: bytes) -> bytes:
    """Text of unknown encoding as UTF-8: what is not UTF-8 is taken for Latin-1, in which every byte means something."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1").encode("utf-8")
    return data
