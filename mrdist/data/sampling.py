"""Coloured points from surfaces, each square of the surface with the same chance."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrdist.data.colour import LIGHT_OF_BYTE, srgb
from mrdist.data.mesh import Mesh
from mrdist.data.readers import read_mesh, read_points
from mrdist.errors import DataError
from mrdist.recipe import Limits
from mrdist.shapes import Float, Points

_ROUNDS = 6  # of drawing again what fell on invisible texels; each draws more
_UNSEEN = 1 / 16  # alpha of "blend" below which a surface is not there: hidden helpers and hair cards, but not window panes


def sample(mesh: Mesh, count: int, seed: int) -> Points:
    """`count` points of the visible surface, in random order; the same points for the same mesh and seed.

    Stratified: the cumulated area is cut into `count` equal lengths and each gives one point, so that clouds are more even than
    independent draws. A point's colour is texture (nearest texel) times vertex colour, in linear light, given as sRGB. Points whose
    alpha says that nothing is there ("mask" below its cutoff, "blend" below 1/16) are drawn again elsewhere.

    Raises:
        DataError: almost nothing of the surface is visible.
    """
    random = np.random.default_rng(seed)
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    cumulated = np.cumsum(np.linalg.norm(np.cross(b - a, c - a), axis=1), dtype=np.float64)
    kept_xyz: list[Float] = []
    kept_rgb: list[Float] = []
    wanted, draws = count, count
    for _ in range(_ROUNDS):
        face, weights = _draw(cumulated, draws, random)
        rgba, visible = _colours(mesh, face, weights)
        xyz = np.einsum("nk,nki->ni", weights, mesh.vertices[mesh.faces[face]])
        # Cut before mixing would favour the faces at the front of the file.
        order = random.permutation(np.flatnonzero(visible))[:wanted]
        kept_xyz.append(xyz[order])
        kept_rgb.append(rgba[order, :3])
        wanted -= len(order)
        if wanted == 0:
            break
        draws = min(16 * count, max(count, int(1.5 * wanted * draws / max(1, int(visible.sum())))))
    else:
        got = f"{count - wanted} visible points of {count} wanted, after {_ROUNDS} rounds"
        raise DataError(what="mesh", got=got, wanted="a visible surface", try_="check alphaMode and the textures' alpha")
    order = random.permutation(count)
    xyz = np.concatenate(kept_xyz)[order]
    return Points(np.asarray(xyz, np.float32), srgb(np.concatenate(kept_rgb)[order]).clip(0, 1))


def _draw(cumulated: NDArray[np.float64], count: int, random: np.random.Generator) -> tuple[NDArray[np.int64], Float]:
    """Faces [N] by area, and barycentric weights [N, 3] uniform within each."""
    at = (np.arange(count) + random.random(count)) * (cumulated[-1] / count)
    face = np.minimum(np.searchsorted(cumulated, at, side="right"), len(cumulated) - 1)
    root, along = np.sqrt(random.random(count, np.float32)), random.random(count, np.float32)
    return face, np.stack([1 - root, root * (1 - along), root * along], axis=1)


def _colours(mesh: Mesh, face: NDArray[np.int64], weights: Float) -> tuple[Float, NDArray[np.bool_]]:
    """Linear rgba [N, 4] at points of faces, and whether anything is there."""
    corners = mesh.faces[face]
    rgba = np.einsum("nk,nki->ni", weights, mesh.colour[corners])
    visible = np.ones(len(face), bool)
    which = mesh.material[face]
    for row, material in enumerate(mesh.materials):
        mine = np.flatnonzero(which == row)
        if len(mine) == 0:
            continue
        if material.texture is not None:
            height, width = material.texture.shape[:2]
            uv = np.einsum("nk,nki->ni", weights[mine], mesh.uv[corners[mine]])
            column, line = (np.floor(uv * (width, height)).astype(np.int64) % (width, height)).T
            texel = material.texture[line, column]
            rgba[mine, :3] *= LIGHT_OF_BYTE[texel[:, :3]]
            rgba[mine, 3] *= texel[:, 3] / np.float32(255)
        if material.alpha != "opaque":
            visible[mine] = rgba[mine, 3] >= (material.cutoff if material.alpha == "mask" else _UNSEEN)
    return rgba, visible


def points_from_file(path: Path, *, up: str, points: int, seed: int) -> Points:
    """`points` coloured points of a mesh file; or of an .npz with `xyz [N, 3]` and perhaps `rgb [N, 3]`, or of a .ply without faces.

    A file of points gives a random subset; one with fewer than `points` gives all of them and repeats some. Colours of an .npz are
    sRGB, bytes or 0..1. The whole cloud is centred and scaled before points are left out.

    Raises:
        AxisError, DataError: as `read_mesh` and `Points.of`.
    """
    limits, suffix = Limits(), path.suffix.lower()
    if suffix == ".npz":
        cloud = Points.of(*_arrays(path, limits), up=up)
    else:
        bare = read_points(path, root=path.parent, limits=limits) if suffix == ".ply" else None
        if bare is None:
            return sample(read_mesh(path, up=up, root=path.parent, limits=limits), points, seed)
        xyz, rgba = bare
        finite = np.isfinite(xyz).all(1)
        cloud = Points.of(xyz[finite], None if rgba is None else srgb(rgba[finite, :3]).clip(0, 1), up=up)
    random = np.random.default_rng(seed)
    rounds = -(-points // len(cloud))
    rows = np.concatenate([random.permutation(len(cloud)) for _ in range(rounds)])[:points]
    return Points(cloud.xyz[rows], cloud.rgb[rows])


def _arrays(path: Path, limits: Limits) -> tuple[Float, Float | None]:
    """xyz and rgb of an .npz; never a pickle, and never more than its limit once unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > limits.file_mb << 20:
            raise DataError(what=path, got=f"{size} bytes once unpacked", wanted=f"at most {limits.file_mb} MB", try_="store fewer points")
        with np.load(path, allow_pickle=False) as archive:
            xyz = np.asarray(archive["xyz"])
            rgb = np.asarray(archive["rgb"]) if "rgb" in archive else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        got, wanted = f"{type(error).__name__}: {error}", "an .npz with xyz [N, 3] and perhaps rgb [N, 3], numbers only"
        raise DataError(what=path, got=got, wanted=wanted, try_="numpy.savez(path, xyz=xyz, rgb=rgb)") from None
    if xyz.dtype.kind not in "fiu" or (rgb is not None and rgb.dtype.kind not in "fiu"):
        raise DataError(what=path, got="arrays that are not numbers", wanted="xyz and rgb of numbers", try_="save plain arrays")
    if rgb is not None and rgb.dtype == np.uint8:
        rgb = rgb / np.float32(255)
    return np.asarray(xyz, np.float32), None if rgb is None else np.asarray(rgb, np.float32)
