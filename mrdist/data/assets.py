"""The files that one mesh may open, and the pictures in them: inside one folder, regular, and bounded."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import numpy as np

from mrdist.data.faults import must_be_its_own
from mrdist.errors import DataError
from mrdist.recipe import Limits
from mrdist.shapes import Bytes

_PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "TGA")  # never the whole of Pillow: EPS starts a program
_PICTURE_PIXELS = 8192 * 8192  # what may be decoded at all; Limits.texture_pixels says what is kept


class Assets:
    """What one mesh may read: regular files whose real place is under `root`, of at most `limits.file_mb` together.

    Symbolic links are followed only where they end inside `root`. Nothing that blocks or never ends is opened: no FIFO, no device.
    """

    def __init__(self, mesh: Path, root: Path, limits: Limits) -> None:
        self.name = mesh.name
        self.limits = limits
        self._folder = os.path.abspath(mesh.parent)
        self._root = os.path.realpath(root)
        self._left = limits.file_mb << 20

    def read(self, name: str) -> bytes:
        """The bytes of the file that the mesh calls `name`, seen from where the mesh lies.

        Raises:
            FileNotFoundError: there is none.
            MachineFault: the machine cannot read it.
            DataError: it lies elsewhere, is not a regular file, or is too large.
        """
        try:
            place = os.path.relpath(os.path.realpath(os.path.join(self._folder, name)), self._root)
            if place == os.pardir or place.startswith(os.pardir + os.sep):
                raise self._refused(name, "a file outside its folder", f"a file under {self._root}", "move it inside, or widen the root")
            with os.fdopen(_open_beneath(self._root, place), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise self._refused(name, "something that is not a regular file", "a regular file", "replace it by a file")
                if found.st_size > self._left:
                    raise self._refused(name, f"{found.st_size} bytes", f"at most {self._left}", "make it smaller, or raise limits.file_mb")
                # Not read(): a file that grows while it is read stays within the limit.
                data = file.read(found.st_size)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            must_be_its_own(error)
            # A loop of links, no permission, a folder that is a file, a zero byte in the name.
            raise self._refused(name, f"{type(error).__name__}: {error}", "a file that can be opened", "check the file") from None
        self._left -= len(data)
        return data

    def _refused(self, name: str, got: str, wanted: str, try_: str) -> DataError:
        what = self.name if name == self.name else f"{self.name}, which refers to {name[:200]!r}"
        return DataError(what=what, got=got, wanted=wanted, try_=try_)


def _open_beneath(root: str, place: str) -> int:
    """Open `place` below `root`, step by step and through no link: what was checked is what is opened."""
    *folders, name = Path(place).parts or (".",)
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            deeper = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = deeper
        # Without O_NONBLOCK a FIFO would keep us here until somebody writes.
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=here)
    finally:
        os.close(here)


def picture(data: bytes, side: int, what: str) -> Bytes:
    """A texture as `[H, W, 4]` sRGB and alpha bytes, the longer side at most `side`.

    A JPEG is decoded at a half, quarter or eighth where that is enough: an 8192-pixel texture costs little more than it gives.

    Raises:
        DataError: not a picture, damaged, or more pixels than anybody paints.
    """
    from PIL import Image

    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_PICTURES)
        width, height = image.size
        if width * height > _PICTURE_PIXELS:
            raise DataError(
                what=what, got=f"a picture of {width} x {height}", wanted=f"at most {_PICTURE_PIXELS} pixels", try_="scale it down"
            )
        if image.format == "JPEG":
            image.draft("RGB", (side, side))
        if image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert("RGBA")
        if max(image.size) > side:
            image.thumbnail((side, side), Image.Resampling.BOX)
        return np.asarray(image)
    except DataError:
        raise
    except Exception as error:  # Pillow raises whatever its decoders raise: SyntaxError, struct.error, EOFError, ...
        got = f"a picture that cannot be read ({type(error).__name__}: {error})"
        raise DataError(what=what, got=got, wanted=f"one of {', '.join(_PICTURES)}", try_="save the texture again") from None
