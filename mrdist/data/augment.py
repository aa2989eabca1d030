"""What is done to a cloud before the student sees it."""

from __future__ import annotations

from math import cos, sin

import numpy as np
from numpy.typing import NDArray

from mrdist.recipe import Augment
from mrdist.shapes import GREY, Float


def augment(xyz: Float, rgb: Float, rules: Augment, random: np.random.Generator) -> tuple[Float, Float]:
    """One cloud as seen this time: Uni3D's augmentation, with z up, and OpenShape's point dropout.

    In this order: points replaced, scaled, shifted, tilted about all three axes, turned about z; colours replaced. Scale, shift
    and the rotations are one affine map, applied once. Clouds leave the unit sphere by `scale` and `shift`, as Uni3D's do.

    Args:
        xyz: [N, 3], z up.
        rgb: [N, 3] in 0..1.
        rules: which of it, and how much.
        random: decides everything. Every rule draws its numbers whether it is on or off, so that switching one off changes no other.

    Returns:
        New arrays [N, 3] and [N, 3]; the inputs are left as they are.
    """
    scale, *shift = random.random(4)
    tilt = random.standard_normal(3)
    yaw, colour, share = random.random(3)

    low, high = rules.scale
    offset = rules.shift * (2 * np.array(shift) - 1)
    x, y, z = np.clip(rules.tilt * tilt, -3 * rules.tilt, 3 * rules.tilt)
    turn = rotation(x, y, z + 2 * np.pi * yaw * rules.yaw)  # the tilt ends with a turn about z, and so does yaw: their angles add
    out = np.matmul(xyz, ((low + (high - low) * scale) * turn).astype(np.float32))
    out += (offset @ turn).astype(np.float32)

    seen = np.full_like(rgb, GREY) if colour < rules.drop_colour else rgb.copy()
    if rules.drop_points > 0:
        replaced = random.random(len(xyz)) < share * rules.drop_points
        out[replaced], seen[replaced] = out[0], seen[0]
    return out, seen


def rotation(x: float, y: float, z: float) -> NDArray[np.float64]:
    """The matrix M [3, 3] for which `rows @ M` turns rows about x, then y, then z, by angles in radians, counter-clockwise."""
    cx, sx, cy, sy, cz, sz = cos(x), sin(x), cos(y), sin(y), cos(z), sin(z)
    return np.array(
        [
            [cy * cz, cy * sz, -sy],
            [sx * sy * cz - cx * sz, sx * sy * sz + cx * cz, sx * cy],
            [cx * sy * cz + sx * sz, cx * sy * sz - sx * cz, cx * cy],
        ]
    )
