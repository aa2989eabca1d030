"""The things that flow through mrdist: shapes, points, views, triplets and their batches.

Nothing here imports torch at run time, so that the throw-away children which read hostile
meshes stay small; only batches hold tensors.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mrdist.errors import AxisError, DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Axis = Literal["x", "y", "z"]
Float = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# Columns are where the old axes go: rows @ matrix turns "up" into +z and keeps handedness.
_TO_Z_UP: dict[str, Float] = {
    "z": np.eye(3, dtype=np.float32),
    "y": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=np.float32),
    "x": np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=np.float32),
}

AXES: dict[str, Float] = {
    "z": _TO_Z_UP["z"],
    "y": _TO_Z_UP["y"].T,
    "mirrored z": np.diag(np.array([1, -1, 1], dtype=np.float32)),
}
"""How an encoder may want its points: `xyz @ AXES[name]` of points with z up. Mirrored: y and z of y-up data were swapped (OpenShape)."""

GREY = 0.4
"""The colour of a point that has none (OpenShape and Uni3D use the same constant)."""


def to_z_up(xyz: Float, up: str) -> Float:
    """Rotate rows of `xyz [..., 3]` so that the axis called `up` becomes +z.

    Raises:
        AxisError: `up` is not "x", "y" or "z".
    """
    if up not in _TO_Z_UP:
        raise AxisError(
            what="up axis", got=repr(up), wanted="'x', 'y' or 'z'", try_="up='y' for glTF, and for files of OpenShape and Uni3D"
        )
    return np.asarray(xyz @ _TO_Z_UP[up], dtype=np.float32)


@dataclass(frozen=True)
class Shape:
    """One object of a catalogue: known before a byte of its mesh is read."""

    id: str
    mesh: Path
    captions: tuple[str, ...] = ()
    category: str = ""
    up: Axis = "y"
    split: str = "train"
    source: str = ""
    licence: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Points:
    """A cloud sampled from a shape: z up, centred, inside the unit sphere.

    `xyz [N, 3]` float32; `rgb [N, 3]` float32 in 0..1 (sRGB). Use `Points.of`, which asks where up is.
    """

    xyz: Float
    rgb: Float

    @classmethod
    def of(cls, xyz: Float, rgb: Float | None = None, *, up: str) -> Points:
        """Points from any cloud: turned to z up, centred at the middle of its box, scaled into the unit sphere.

        Args:
            xyz: [N, 3], any unit, finite.
            rgb: [N, 3] in 0..1, or None for the neutral grey `GREY`.
            up: which axis of `xyz` points up: "x", "y" or "z".

        Raises:
            AxisError: `up` is unknown.
            DataError: shapes do not fit, no points, not finite, no extent, or colours outside 0..1.
        """
        xyz = np.asarray(xyz, dtype=np.float32)
        if xyz.ndim != 2 or xyz.shape[1] != 3 or len(xyz) == 0:
            raise DataError(what="points", got=f"xyz of shape {list(xyz.shape)}", wanted="[N, 3] with N > 0", try_="one row per point")
        if not np.isfinite(xyz).all():
            raise DataError(
                what="points", got="coordinates that are not finite", wanted="finite coordinates", try_="drop NaN and infinite rows"
            )
        xyz = normalised(to_z_up(xyz, up))
        if rgb is None:
            return cls(xyz, np.full_like(xyz, GREY))
        rgb = np.asarray(rgb, dtype=np.float32)
        if rgb.shape != xyz.shape:
            raise DataError(what="points", got=f"rgb of shape {list(rgb.shape)}", wanted=str(list(xyz.shape)), try_="one colour per point")
        if not (np.isfinite(rgb).all() and rgb.min() >= 0 and rgb.max() <= 1):
            raise DataError(what="points", got="colours outside 0..1", wanted="rgb in 0..1", try_="divide byte colours by 255")
        return cls(xyz, rgb)

    @classmethod
    def from_file(cls, path: str | Path, *, up: str, points: int = 10_000, seed: int = 0) -> Points:
        """Sample a mesh file (glb, gltf, obj, ply, off, stl), or read `xyz`/`rgb` from an .npz or a point .ply.

        Raises:
            AxisError, DataError: as `Points.of`, or the file cannot be read.
        """
        from mrdist.data.sampling import points_from_file

        return points_from_file(Path(path), up=up, points=points, seed=seed)

    def __len__(self) -> int:
        return len(self.xyz)


def normalised(xyz: Float) -> Float:
    """Centre `xyz [N, 3]` at the middle of its box and scale it so that the farthest point lies on the unit sphere."""
    middle = (xyz.min(0) + xyz.max(0)) / 2
    xyz = xyz - middle
    radius = float(np.linalg.norm(xyz, axis=1).max())
    if not np.isfinite(radius) or radius < 1e-12:
        raise DataError(what="points", got=f"extent {radius:g}", wanted="points that are apart", try_="check the mesh: all points coincide")
    return np.asarray(xyz / radius, dtype=np.float32)


@dataclass(frozen=True)
class Camera:
    """Where a view was taken from: degrees, and distance in radii of the unit sphere; looks at the origin, z up."""

    azimuth: float
    elevation: float
    distance: float
    fov: float


@dataclass(frozen=True)
class View:
    """One rendered picture: `pixels [H, W, 3]` uint8 sRGB, and the camera that took it."""

    pixels: Bytes
    camera: Camera


def digest(data: bytes | memoryview) -> str:
    """The name of some bytes: the first 32 hex digits of their SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


@dataclass(frozen=True)
class Triplet:
    """One shape, ready to be learnt from: points, and what the teacher says of its views and captions.

    `image [V, E]` and `text [T, E]` are float16 unit vectors; V or T may be 0.
    """

    id: str
    category: str
    points: Points
    image: NDArray[np.float16]
    text: NDArray[np.float16]
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class TripletBatch:
    """One rank's rows of a global batch; `has_*` marks what is really there, absent rows are zero."""

    xyz: Tensor  # [B, N, 3] float32, z up
    rgb: Tensor  # [B, N, 3] float32 in 0..1
    image: Tensor  # [B, E] float32, unit length or zero
    text: Tensor  # [B, E] float32, unit length or zero
    has_image: Tensor  # [B] bool
    has_text: Tensor  # [B] bool
    keys: Tensor  # [B] int64: one seed per row from (run, shape, step), never from the rank
    ids: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.xyz)

    def to(self, device: torch.device | str) -> TripletBatch:
        """The same rows on another device."""
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in self.tensors().items()})

    def rows(self, which: slice) -> TripletBatch:
        """Some of the rows; tensors are views."""
        return replace(self, **{f.name: getattr(self, f.name)[which] for f in fields(self)})

    def tensors(self) -> dict[str, Any]:
        """The tensor fields by name, in order."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("ids", "categories")}
