"""From a mesh to what the rasteriser's kernels read: checked, grouped by transparency, textures with all their levels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import warp as wp
from numpy.typing import NDArray

from mrdist.data import raster_kernels as kernels
from mrdist.data.colour import LIGHT_OF_BYTE, srgb
from mrdist.data.mesh import Mesh
from mrdist.data.raster_surface import Look, Scene
from mrdist.errors import DataError
from mrdist.shapes import Bytes

SRGB_STEPS = 16384
"""Steps of linear light in the table of sRGB bytes: where sRGB is steepest a step is a fifth of a byte."""

_TEXELS = 2**31 - 1  # an index is a 32-bit number
_FARTHEST_UV = 1e6  # beyond, a 32-bit float has no room left for the place inside the texture


class Uploaded(NamedTuple):
    """A mesh on a device; the first `opaque` faces are opaque, the next `cut` cut out, the last `glassy` to look through."""

    scene: Scene
    vertices: int
    opaque: int
    cut: int
    glassy: int


def upload(mesh: Mesh, device: wp.Device) -> Uploaded:
    """A mesh where kernels on `device` can read it; on the CPU without a copy where there is none needed.

    Raises:
        DataError: the mesh is not what `Mesh` promises.
    """
    check(mesh)
    order, counts = by_transparency(mesh)
    scene = Scene()
    scene.positions = _shared(mesh.vertices, wp.vec3, device)
    scene.normals = _shared(mesh.normals, wp.vec3, device)
    scene.uv = _shared(np.clip(mesh.uv, -_FARTHEST_UV, _FARTHEST_UV), wp.vec2, device)
    scene.colour = _shared(mesh.colour, wp.vec4, device)
    # A copy in any case: `wind` writes to it.
    scene.corners = _shared(mesh.faces[order] if order is not None else mesh.faces.copy(), wp.vec3i, device)
    scene.look = _shared(mesh.material[order] if order is not None else mesh.material, wp.int32, device)
    scene.light = _shared(LIGHT_OF_BYTE, wp.float32, device)
    _textures(mesh, scene, device)
    wp.launch(kernels.wind, dim=len(mesh.faces), inputs=[scene], device=device)
    return Uploaded(scene, len(mesh.vertices), *counts)


def srgb_of_light(device: wp.Device) -> wp.array[Any]:
    """[SRGB_STEPS] the sRGB byte of linear light 0..1 in equal steps."""
    return _shared(np.rint(255 * srgb(np.linspace(0, 1, SRGB_STEPS))).astype(np.uint8), wp.uint8, device)


def check(mesh: Mesh) -> None:
    """Raise unless the mesh is what `Mesh` promises.

    Readers have checked this before; it is checked again here because a kernel that follows a wrong index kills the process.

    Raises:
        DataError: which array is wrong, and how.
    """
    corners = (("vertices", 3), ("normals", 3), ("uv", 2), ("colour", 4))
    for name, width in corners:
        _expect(name, getattr(mesh, name), np.float32, (len(mesh.vertices), width))
    _expect("faces", mesh.faces, np.int32, (len(mesh.faces), 3))
    _expect("material", mesh.material, np.int32, (len(mesh.faces),))
    for name, below in (("faces", len(mesh.vertices)), ("material", len(mesh.materials))):
        index = getattr(mesh, name)
        if index.min() < 0 or index.max() >= below:
            raise _wrong(f"mesh.{name}", f"an index of {index.min()} or {index.max()}", f"0 to {below - 1}")
    for name, _ in corners:
        if not np.isfinite(getattr(mesh, name)).all():
            raise _wrong(f"mesh.{name}", "a number that is not finite", "finite numbers")
    farthest = float(np.sqrt(np.einsum("ij,ij->i", mesh.vertices, mesh.vertices).max()))
    if farthest > 1.001:
        raise _wrong("mesh.vertices", f"one at {farthest:g} from the middle", "all inside the unit sphere")
    for i, material in enumerate(mesh.materials):
        texture = material.texture
        if texture is not None and (texture.dtype != np.uint8 or texture.ndim != 3 or texture.shape[2] != 4 or texture.size == 0):
            raise _wrong(f"mesh.materials[{i}].texture", f"{texture.dtype} {list(texture.shape)}", "uint8 [H, W, 4]")


def by_transparency(mesh: Mesh) -> tuple[NDArray[np.intp] | None, tuple[int, int, int]]:
    """An order of the faces (None: as they are) that puts opaque ones first, then cut ones, then glassy ones; how many of each.

    What a file calls masked or blended is opaque here where no alpha of it is low enough to matter.
    """
    faces = len(mesh.faces)
    if all(material.alpha == "opaque" for material in mesh.materials):
        return None, (faces, 0, 0)
    lowest = np.ones(len(mesh.materials), np.float32)
    np.minimum.at(lowest, mesh.material, mesh.colour[mesh.faces, 3].min(1))
    group = np.zeros(len(mesh.materials), np.int8)
    for i, material in enumerate(mesh.materials):
        alpha = lowest[i] * (1.0 if material.texture is None else material.texture[..., 3].min() / 255)
        if material.alpha == "mask" and alpha < material.cutoff:
            group[i] = 1
        elif material.alpha == "blend" and alpha < 1:
            group[i] = 2
    of_face = group[mesh.material]
    opaque, cut, glassy = (int(n) for n in np.bincount(of_face, minlength=3))
    return (None if opaque == faces else np.argsort(of_face, kind="stable")), (opaque, cut, glassy)


def _textures(mesh: Mesh, scene: Scene, device: wp.Device) -> None:
    """Every texture once, each level half of the one before."""
    rows: list[Look] = []
    placed: dict[int, tuple[int, int]] = {}  # where a picture that several materials share lies, and its levels
    sources: list[tuple[int, Bytes]] = []
    total = 0
    for material in mesh.materials:
        look = Look()
        look.cutoff = material.cutoff
        if material.texture is not None:
            look.height, look.width = material.texture.shape[:2]
            if id(material.texture) not in placed:
                sizes = _sizes(look.width, look.height)
                placed[id(material.texture)] = (total, len(sizes))
                sources.append((total, material.texture))
                total += sum(w * h for w, h in sizes)
            look.first, look.levels = placed[id(material.texture)]
        rows.append(look)
    if total > _TEXELS:
        raise _wrong("mesh.materials", f"{total} texels", f"at most {_TEXELS}")
    scene.looks = wp.array(rows, dtype=Look, device=device)
    scene.texels = wp.empty(max(total, 1), dtype=wp.uint32, device=device)
    table = srgb_of_light(device)
    for first, texture in sources:
        words = np.ascontiguousarray(texture).reshape(-1).view("<u4")
        wp.copy(scene.texels, _shared(words, wp.uint32, device), dest_offset=first)
        source = first
        for (width, height), smaller in pairwise(_sizes(texture.shape[1], texture.shape[0])):
            inputs = [scene, table, source, width, height, source + width * height]
            wp.launch(kernels.halve, dim=smaller, inputs=inputs, device=device)
            source += width * height


def _sizes(width: int, height: int) -> list[tuple[int, int]]:
    """Width and height of every level, down to a single texel."""
    sizes = [(width, height)]
    while sizes[-1] != (1, 1):
        sizes.append((max(sizes[-1][0] >> 1, 1), max(sizes[-1][1] >> 1, 1)))
    return sizes


def _shared(values: NDArray[np.generic], dtype: type, device: wp.Device) -> wp.array[Any]:
    """Numbers on a device; on the CPU the very same memory."""
    return wp.array(np.ascontiguousarray(values), dtype=dtype, device=device, copy=not device.is_cpu)


def _expect(name: str, values: NDArray[np.generic], dtype: type, shape: tuple[int, ...]) -> None:
    if values.dtype != dtype or values.shape != shape or values.size == 0:
        raise _wrong(f"mesh.{name}", f"{values.dtype} {list(values.shape)}", f"{np.dtype(dtype)} {list(shape)}, not empty")


def _wrong(what: str, got: str, wanted: str) -> DataError:
    return DataError(what=what, got=got, wanted=wanted, try_="make meshes with mrdist.data.readers.read_mesh")
