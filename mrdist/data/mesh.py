"""Triangles as flat arrays: what readers give, and what the renderer and the sampler take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mrdist.shapes import Bytes, Float

Index = NDArray[np.int32]


@dataclass(frozen=True)
class Material:
    """How some faces look besides their vertex colours."""

    texture: Bytes | None = None  # [H, W, 4] uint8, sRGB and alpha; row 0 is v = 0 (glTF: top)
    alpha: Literal["opaque", "mask", "blend"] = "opaque"
    cutoff: float = 0.5  # of "mask"


@dataclass(frozen=True)
class Mesh:
    """One shape: z up, centred, inside the unit sphere; every index is in range and every number finite.

    A vertex that lies on a seam of normals, colours or texture coordinates stands once per side.
    """

    vertices: Float  # [V, 3]
    faces: Index  # [F, 3] rows of `vertices`
    normals: Float  # [V, 3] unit
    uv: Float  # [V, 2] glTF convention; zeros where there is no texture
    colour: Float  # [V, 4] linear light and alpha in 0..1: material factor times vertex colour
    material: Index  # [F] rows of `materials`
    materials: tuple[Material, ...]
