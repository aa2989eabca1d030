"""From sRGB, which files and pictures hold, to linear light, in which colours are mixed, and back (IEC 61966-2-1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrdist.shapes import Float


def linear(srgb: NDArray[Any] | float) -> Float:
    """Linear light of sRGB values in 0..1, of any shape."""
    srgb = np.asarray(srgb, np.float32)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def srgb(light: NDArray[Any] | float) -> Float:
    """sRGB values in 0..1 of linear light in 0..1, of any shape."""
    light = np.asarray(light, np.float32)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055).astype(np.float32)


LIGHT_OF_BYTE = linear(np.arange(256) / 255)
"""[256] linear light of every sRGB byte."""
