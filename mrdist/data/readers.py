"""From a mesh file to a Mesh: .glb, .gltf, .obj, .ply, .off, .stl, with colours, and never outside one folder."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mrdist.data.assets import Assets
from mrdist.data.faults import NO_FILE, MachineFault
from mrdist.data.flatten import Piece, flatten
from mrdist.data.gltf import read_gltf
from mrdist.data.mesh import Mesh
from mrdist.data.off import read_off
from mrdist.data.ply import read_ply
from mrdist.errors import DataError
from mrdist.recipe import Limits
from mrdist.shapes import Float, to_z_up

_Found = TypeVar("_Found")
_Read = Callable[[bytes, Assets], list[Piece]]


def read_mesh(path: Path, *, up: str, root: Path, limits: Limits) -> Mesh:
    """Read one mesh: z up, centred, inside the unit sphere, every index in range, every number finite.

    What a file leaves out is filled in: normals (see `creases`), and a neutral grey where there is no colour. Factors and vertex
    colours of glTF are linear light; those of the other formats, and all textures, are sRGB. A picture or .mtl that an .obj or
    .ply names but that does not exist is passed over; anything else that is missing, and anything damaged, is an error.

    Call it in a `Sandbox` for files of strangers: it keeps to its limits, but decoders below it are not ours.

    Args:
        path: the file; its suffix says the format.
        up: which axis of the file points up: "y" in glTF and most .obj files, "z" in most others.
        root: the folder that nothing is read outside of, whatever the file says.
        limits: bytes, faces and texture size that are allowed.

    Raises:
        AxisError: `up` is unknown.
        DataError: the file is missing, elsewhere, too large, malformed, or has no face with area.
        MachineFault: the machine cannot read it.
    """
    to_z_up(np.zeros((1, 3), np.float32), up)
    assets = Assets(path, root, limits)
    return flatten(_pieces(assets), up=up, what=assets.name, faces=limits.faces)


def read_points(path: Path, *, root: Path, limits: Limits) -> tuple[NDArray[Any], Float | None] | None:
    """The bare points of a .ply without faces: xyz [N, 3] in its own axes, and linear rgba [N, 4] or None; None if it has faces.

    Raises:
        DataError: as `read_mesh`.
    """
    assets = Assets(path, root, limits)
    found = _guarded(assets, read_ply)
    return None if found.pieces else (found.vertices, found.colour)


def warm() -> None:
    """Import what reading any file will need: once, in the process that children are forked from, not in each of them."""
    from PIL import Image

    for module in ("scipy.sparse.csgraph", "mrdist.data.obj", "mrdist.data.stl"):
        import_module(module)
    Image.init()


def _pieces(assets: Assets) -> list[Piece]:
    suffix = Path(assets.name).suffix.lower()
    readers: dict[str, _Read] = {".glb": read_gltf, ".gltf": read_gltf, ".off": read_off, ".ply": _of_ply, ".obj": _of_obj, ".stl": _of_stl}
    if suffix not in readers:
        raise DataError(what=assets.name, got=f"a {suffix or 'nameless'} file", wanted=f"one of {', '.join(readers)}", try_="convert it")
    return _guarded(assets, readers[suffix])


def _of_ply(data: bytes, assets: Assets) -> list[Piece]:
    return read_ply(data, assets).pieces


def _of_obj(data: bytes, assets: Assets) -> list[Piece]:
    from mrdist.data.obj import read_obj  # imports trimesh, which takes a second

    return read_obj(data, assets)


def _of_stl(data: bytes, assets: Assets) -> list[Piece]:
    from mrdist.data.stl import read_stl

    return read_stl(data, assets)


def _guarded(assets: Assets, read: Callable[[bytes, Assets], _Found]) -> _Found:
    """Read the file; whatever Python raises about its content becomes one DataError that names it."""
    try:
        data = assets.read(assets.name)
    except FileNotFoundError:
        raise DataError(what=assets.name, got=NO_FILE, wanted="a mesh", try_="check the path") from None
    if not data:
        raise DataError(what=assets.name, got="0 bytes", wanted="a mesh", try_="copy the file again")
    try:
        return read(data, assets)
    except (DataError, MachineFault):
        raise
    except MemoryError:
        raise DataError(what=assets.name, got="no memory left", wanted="a smaller mesh", try_="raise limits.memory_mb") from None
    except Exception as error:
        got = f"malformed content ({type(error).__name__}: {error!s:.200})"
        raise DataError(what=assets.name, got=got, wanted=f"a well-formed {Path(assets.name).suffix}", try_="export it again") from error
