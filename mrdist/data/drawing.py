"""One shape in, points and views out: read, sampled and drawn in a throw-away child."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Collection
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from mrdist.data.faults import must_be_its_own
from mrdist.data.render import Renderer
from mrdist.data.sandbox import Outcome, Sandbox
from mrdist.data.shards import Arrays, join
from mrdist.errors import DataError
from mrdist.recipe import Limits, Views
from mrdist.shapes import Bytes, Shape, digest


def warm() -> None:
    """Draw a tetrahedron: loads, before any shape is seen, what every child needs, and fails where no shape could be drawn."""
    from PIL import Image

    from mrdist.data.creases import creased
    from mrdist.data.mesh import Material, Mesh
    from mrdist.data.readers import read_mesh  # noqa: F401 - for the children
    from mrdist.data.sampling import sample

    Image.init()
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=np.float32) / np.sqrt(np.float32(3))
    faces, origin, normals = creased(corners, np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]]))
    grey, zero = np.full((len(origin), 4), 0.5, np.float32), np.zeros((len(origin), 2), np.float32)
    mesh = Mesh(corners[origin], faces.astype(np.int32), normals, zero, grey, np.zeros(4, np.int32), (Material(),))
    sample(mesh, 16, seed=0)
    views = Views(pixels=16)
    for view in _renderer().render(mesh, views):
        _jpeg(view.pixels, views.quality)


def warm_for_text() -> None:
    """`warm`, and two seconds of imports that every child would need to read an .obj or .stl."""
    import mrdist.data.readers

    mrdist.data.readers.warm()
    warm()


def render_shape(request: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """Read a mesh, sample it, draw it. Runs in a child that is thrown away afterwards.

    Args:
        request: see `ShapeRenderer.request`.

    Returns:
        `xyz` float16 [N, 3], `rgb` uint8 [N, 3], `jpeg` (the views, one after the other) and `jpeg_at` [V + 1]; and `faces`.

    Raises:
        DataError: the mesh is not what it should be; the reason is in it.
        MachineFault: the machine cannot read it.
    """
    from mrdist.data.readers import read_mesh
    from mrdist.data.sampling import sample

    path, views, limits = Path(request["mesh"]), Views(**request["views"]), Limits(**request["limits"])
    if request["sha256"]:
        _check_hash(path, request["sha256"], limits)
    mesh = read_mesh(path, up=request["up"], root=Path(request["root"]), limits=limits)
    points = sample(mesh, request["points"], request["seed"])
    drawn = [view.pixels for view in _renderer().render(mesh, views)]
    if all((pixels == pixels[0, 0]).all() for pixels in drawn):
        raise DataError(what=path.name, got="nothing to be seen in any view", wanted="a visible surface", try_="check its transparency")
    jpeg, jpeg_at = join(_jpeg(pixels, views.quality) for pixels in drawn)
    arrays: Arrays = {
        "xyz": points.xyz.astype(np.float16),
        "rgb": np.rint(points.rgb * 255).astype(np.uint8),
        "jpeg": jpeg,
        "jpeg_at": jpeg_at,
    }
    return arrays, {"faces": len(mesh.faces)}


@cache
def _renderer() -> Renderer:
    from mrdist.data.raster import WarpRenderer

    return WarpRenderer("cpu")


def _jpeg(pixels: Bytes, quality: int) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    # Full colour resolution: halved colour blurs the thin coloured parts that captions speak of.
    Image.fromarray(pixels).save(out, "JPEG", quality=quality, subsampling="4:4:4")
    return out.getvalue()


def _check_hash(path: Path, wanted: str, limits: Limits) -> None:
    try:
        if not path.is_file():
            return  # the reader says why that is no mesh; opening a pipe would wait for ever
        size = path.stat().st_size
        found = _hashed(path) if size <= limits.file_mb << 20 else ""
    except OSError as wrong:
        must_be_its_own(wrong)
        raise
    if size > limits.file_mb << 20:
        raise DataError(what=path.name, got=f"{size >> 20} MB", wanted=f"at most {limits.file_mb} MB", try_="limits.file_mb=...")
    if found != wanted:
        raise DataError(
            what=path.name, got=f"sha256 {found[:12]}...", wanted=f"{wanted[:12]}..., as the catalogue says", try_="fetch it again"
        )


def _hashed(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ShapeRenderer:
    """Draws shapes of one catalogue, whatever they are: a bad one costs itself only. Belongs to one thread; close it."""

    work: ClassVar[str] = "mrdist.data.drawing:render_shape"

    def __init__(self, root: Path, *, views: Views, limits: Limits, points: int, formats: Collection[str] = (".glb",)) -> None:
        """
        Args:
            formats: suffixes of the meshes to come; others are read too, only later.

        Raises:
            DataError: nothing can be drawn on this machine; says why.
        """
        slow = {".obj", ".stl"} & {suffix.lower() for suffix in formats}
        self._same = {"root": str(root), "views": asdict(views), "limits": asdict(limits), "points": points}
        self._sandbox = Sandbox(self.work, limits, warm=f"mrdist.data.drawing:{'warm_for_text' if slow else 'warm'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process whose children draw; another one after it had to be replaced."""
        return self._sandbox.pid

    def close(self) -> None:
        """End the child processes."""
        self._sandbox.close()

    def request(self, shape: Shape) -> dict[str, Any]:
        """What `render_shape` is asked: where points fall depends on the shape's id, so it is the same whoever draws it, and when."""
        seed = int(digest(shape.id.encode())[:15], 16)
        return {**self._same, "mesh": str(shape.mesh), "up": shape.up, "sha256": shape.sha256, "seed": seed}

    def draw(self, shape: Shape) -> Outcome:
        """What came of a shape. One that crashed or took too long is tried once more: the machine may have been short of something."""
        outcome = self._sandbox.run(self.request(shape))
        if outcome.ok or re.match(r"\w+: ", outcome.reason):  # the child said itself what is wrong, and would say it again
            return outcome
        return self._sandbox.run(self.request(shape))
