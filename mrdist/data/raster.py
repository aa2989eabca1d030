"""The renderer: a visibility-buffer rasteriser in NVIDIA Warp that needs neither a display nor a graphics library."""

# Warp's own methods carry no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import warp as wp

from mrdist.data import raster_kernels as kernels
from mrdist.data.colour import linear
from mrdist.data.mesh import Mesh
from mrdist.data.raster_surface import Frame
from mrdist.data.raster_upload import Uploaded, srgb_of_light, upload
from mrdist.data.render import AMBIENT, KEY, KEY_TOWARDS, LAMP, axes, cameras
from mrdist.errors import RecipeError
from mrdist.recipe import Views
from mrdist.shapes import Bytes, Camera, View

LAYERS = 8
"""How many faces one can look through behind one another at a sample; farther ones are left out."""

_EMPTY = 2**64 - 1
_GRID = 1 << 14  # steps of the grid along a picture: twice an area, in steps, fits a 32-bit number
_ROOM = 1 << 31  # bytes of samples that a GPU holds at a time
_LANES = 16  # threads of a GPU that share a face


class WarpRenderer:
    """Renders on one core of the CPU, or on a GPU: `device` is "cpu", "cuda" or "cuda:1".

    The same mesh and views give the same pixels in every process. Shading is in linear light: texture times colour times
    `mrdist.data.render`'s lights, from both sides of a face, averaged over supersampling**2 samples of a pixel and written
    as sRGB. Alpha cuts out ("mask"), or lets through ("blend": up to `LAYERS` faces behind one another, exactly).

    Kernels are compiled once per machine, into Warp's cache (`WARP_CACHE_PATH`, or the user's cache folder). The room that
    views are made in is kept from call to call: a renderer belongs to one thread.

    Raises:
        RecipeError: there is no such device.
    """

    def __init__(self, device: str = "cpu") -> None:
        _begin()
        try:
            self.device = wp.get_device(device)
        except (ValueError, RuntimeError):
            known = ", ".join(each.alias for each in wp.get_devices())
            raise RecipeError(what="renderer device", got=repr(device), wanted=f"one of {known}", try_="device=cpu") from None
        self._srgb = srgb_of_light(self.device)
        self._rooms: dict[str, wp.array[Any]] = {}

    def warm(self) -> None:
        """Compile or load the kernels now: what is forked from this process afterwards finds them ready."""
        wp.load_module(kernels, device=self.device)

    def render(self, mesh: Mesh, views: Views) -> list[View]:
        """One view per camera of `cameras(views)`, in that order.

        Args:
            mesh: any number of faces; degenerate ones cover nothing.
            views: size, ring, supersampling, field of view, ground.

        Raises:
            DataError: the mesh is not what `Mesh` promises.
            RecipeError: no such ring, or a picture that cannot be made.
        """
        ring = cameras(views)
        held = upload(mesh, self.device)
        at_once = min(len(ring), self._at_once(held, views))
        frame = self._frame(held, views, ring, at_once)
        pictures = np.empty((len(ring), views.pixels, views.pixels, 3), np.uint8)
        for first in range(0, len(ring), at_once):
            count = min(at_once, len(ring) - first)
            pictures[first : first + count] = self._pictures(held, frame, first, count)
        return [View(picture, camera) for picture, camera in zip(pictures, ring, strict=True)]

    def _at_once(self, held: Uploaded, views: Views) -> int:
        """One view at a time stays in a core's cache; a GPU wants as many as there is room for."""
        if self.device.is_cpu:
            return 1
        samples = (views.pixels * views.supersampling) ** 2
        bytes_per_view = samples * (40 if held.glassy else 8) + 12 * held.vertices + 3 * views.pixels**2
        return max(1, _ROOM // bytes_per_view)

    def _pictures(self, held: Uploaded, frame: Frame, first: int, count: int) -> Bytes:
        """`count` views from the `first` on, [count, pixels, pixels, 3]."""
        rows = 1 if self.device.is_cpu else frame.pixels
        frame.keys.fill_(_EMPTY)
        self._launch(kernels.project, (count, held.vertices), held.scene, frame, first)
        self._cover(kernels.cover, held, frame, count, 0, held.opaque)
        self._cover(kernels.cut, held, frame, count, held.opaque, held.cut)
        if held.glassy:
            self._peel(held, frame, first, count, rows)
        pictures = self._room("pictures", count * frame.pixels**2 * 3, wp.uint8)
        self._launch(kernels.resolve, (count, frame.pixels, rows), held.scene, frame, first, rows, pictures)
        return np.asarray(pictures.numpy()).reshape(count, frame.pixels, frame.pixels, 3)

    def _peel(self, held: Uploaded, frame: Frame, first: int, count: int, rows: int) -> None:
        """Faces to look through, layer by layer, nearest first, until there are no more."""
        above, layer = (self._room(name, frame.keys.size, wp.uint64) for name in ("above", "layer"))
        found = self._room("found", 1, wp.int32)
        above.zero_()
        frame.veil.fill_(wp.vec4(0.0, 0.0, 0.0, 1.0))
        for _ in range(LAYERS):
            layer.fill_(_EMPTY)
            found.zero_()
            self._cover(kernels.peel, held, frame, count, held.opaque + held.cut, held.glassy, above, layer)
            self._launch(kernels.veil, (count, frame.pixels, rows), held.scene, frame, first, rows, layer, found)
            if not found.numpy()[0]:
                return
            above, layer = layer, above

    def _cover(self, kernel: wp.Kernel, held: Uploaded, frame: Frame, count: int, start: int, faces: int, *more: wp.array[Any]) -> None:
        if faces:
            lanes = 1 if self.device.is_cpu else _LANES
            self._launch(kernel, (count, faces, lanes), held.scene, frame, start, lanes, *more)

    def _launch(self, kernel: wp.Kernel, dim: tuple[int, ...], *inputs: object) -> None:
        wp.launch(kernel, dim=dim, inputs=inputs, device=self.device)

    def _frame(self, held: Uploaded, views: Views, ring: tuple[Camera, ...], at_once: int) -> Frame:
        """Room for `at_once` views of a ring, whose cameras all stand equally far and see equally wide."""
        fov, distance = ring[0].fov, ring[0].distance
        samples = views.pixels * views.supersampling
        frame = Frame()
        frame.pixels = views.pixels
        frame.supersampling = views.supersampling
        frame.samples = samples
        frame.shift = min(8, int(math.log2(_GRID // samples)))
        frame.vertices = held.vertices
        frame.distance = distance
        frame.focal = samples / 2 / math.tan(math.radians(fov) / 2)
        # The key spans the unit sphere and a little more, so that no depth falls off its ends.
        frame.nearest = 1 / (distance - 1.002)
        frame.stretch = 2.0**32 / (1 / (distance - 1.002) - 1 / (distance + 1.002))
        frame.lights = wp.vec3(AMBIENT, LAMP, KEY)
        frame.key_towards = wp.vec3(*KEY_TOWARDS)
        frame.ground = float(linear(views.background / 255))
        frame.ground_byte = wp.uint8(views.background)
        frame.srgb = self._srgb
        frame.axes = wp.array(np.stack([axes(camera) for camera in ring]), dtype=wp.mat33, device=self.device)
        frame.screen = self._room("screen", at_once * held.vertices, wp.vec3)
        frame.keys = self._room("keys", at_once * samples**2, wp.uint64)
        frame.veiled = int(held.glassy > 0)
        frame.veil = self._room("veil", at_once * samples**2 if held.glassy else 1, wp.vec4)
        return frame

    def _room(self, name: str, count: int, dtype: type) -> wp.array[Any]:
        """The first `count` places of an array that is kept, and grows when it must."""
        if name not in self._rooms or self._rooms[name].size < count:
            self._rooms[name] = wp.empty(count, dtype=dtype, device=self.device)
        room: wp.array[Any] = self._rooms[name][:count]
        return room


def _begin() -> None:
    """Start Warp without a word."""
    wp.config.log_level = wp.LOG_WARNING
    with _silence():
        wp.init()


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing on stderr: on a machine without a GPU Warp's library says so, from C, in every process that starts it."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr to keep clean
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
