"""Where the cameras stand and how shapes are lit: everything about a view that the recipe decides."""

from __future__ import annotations

import difflib
import math
from dataclasses import replace
from typing import Protocol

import numpy as np

from mrdist.data.mesh import Mesh
from mrdist.errors import RecipeError
from mrdist.recipe import Views
from mrdist.shapes import Camera, Float, View

RENDERER_VERSION = 1
"""Raised whenever the same mesh and the same `Views` give other pixels: stored views are kept under this number."""

MARGIN = 1.05
"""How much farther than necessary a camera stands: no silhouette touches the border."""

LARGEST = 8192
"""The most samples along one side of a picture: pixels times supersampling."""

GOLDEN = 180.0 * (3.0 - math.sqrt(5.0))
"""The golden angle, 137.508 degrees: turned by it again and again, a ring never comes back to where it was, and fills its circle evenly."""

# Light is linear and Lambertian, from both sides of a face, and stands with the camera: nothing glints, so that a colour
# looks the same from everywhere. The parts sum to 1: white in full light is just white, and nothing clips. They were
# searched for what the default ground (217) must not swallow: of a white box, upright as most things stand, every side is
# at least ten levels from the ground and from its neighbours in all rings below, and every silhouette is darker (< 180).
AMBIENT = 0.10
LAMP = 0.36  # at the camera
KEY = 0.54  # above the camera, a little to its right
KEY_TOWARDS = (0.104, 0.608, 0.787)  # right, up, back; unit


def distance(fov: float) -> float:
    """How many radii from the middle a camera of `fov` degrees sees the whole unit sphere."""
    return MARGIN / math.sin(math.radians(fov) / 2)


def _at(azimuth: float, elevation: float) -> Camera:
    fov = Views().fov
    return Camera(azimuth % 360.0, elevation, distance(fov), fov)


def _fibonacci(count: int) -> tuple[Camera, ...]:
    """Cameras as even as can be over the sphere: equal steps of height, golden steps of azimuth."""
    heights = (1.0 - (2 * i + 1) / count for i in range(count))
    return tuple(_at(GOLDEN * i, math.degrees(math.asin(z))) for i, z in enumerate(heights))


RINGS: dict[str, tuple[Camera, ...]] = {
    # OpenShape's twelve: three heights, each ring turned against the others.
    "openshape12": (
        *(_at(azimuth, 30.0) for azimuth in (30, 120, 210, 300)),
        *(_at(azimuth, 0.0) for azimuth in (60, 150, 240, 330)),
        *(_at(azimuth, -30.0) for azimuth in (0, 90, 180, 270)),
    ),
    # Objaverse's renderings: once around, from a little above.
    "ring12": tuple(_at(30.0 * i, 30.0) for i in range(12)),
    "sphere24": _fibonacci(24),
    # The front of a glTF model (its +z) looks along -y once z is up: azimuth 270.
    "front4": tuple(_at(azimuth, 15.0) for azimuth in (270, 315, 0, 225)),
}
"""Rings by name, with the default field of view; `cameras` fits them to a recipe."""


def cameras(views: Views) -> tuple[Camera, ...]:
    """The cameras of a recipe: nothing but `views` decides where they stand.

    Raises:
        RecipeError: an unknown ring, or a picture that cannot be made.
    """
    if views.ring not in RINGS:
        near = difflib.get_close_matches(views.ring, RINGS, n=1, cutoff=0.4)
        known = ", ".join(RINGS)
        raise RecipeError(what="views.ring", got=repr(views.ring), wanted=f"one of {known}", try_=f"views.ring={(near or list(RINGS))[0]}")
    bounds = {
        "pixels": (1, LARGEST),
        "supersampling": (1, 8),
        "fov": (1.0, 120.0),
        "background": (0, 255),
    }
    for name, (low, high) in bounds.items():
        value = getattr(views, name)
        if not low <= value <= high:
            raise RecipeError(what=f"views.{name}", got=value, wanted=f"{low} to {high}", try_=f"views.{name}={getattr(Views(), name)}")
    if views.pixels * views.supersampling > LARGEST:
        raise RecipeError(
            what="views.pixels * views.supersampling",
            got=views.pixels * views.supersampling,
            wanted=f"at most {LARGEST}",
            try_=f"views.supersampling={LARGEST // views.pixels}",
        )
    if not math.isfinite(views.turn):
        raise RecipeError(what="views.turn", got=views.turn, wanted="degrees", try_="views.turn=0")
    return tuple(
        replace(camera, azimuth=(camera.azimuth + views.turn) % 360.0, fov=views.fov, distance=distance(views.fov))
        for camera in RINGS[views.ring]
    )


def axes(camera: Camera) -> Float:
    """The camera's axes as rows [3, 3]: right, up, back (towards the camera); its place is `distance * back`.

    Closed forms, so that a camera straight above or below has a right hand too.
    """
    a, e = math.radians(camera.azimuth), math.radians(camera.elevation)
    right = (-math.sin(a), math.cos(a), 0.0)
    up = (-math.sin(e) * math.cos(a), -math.sin(e) * math.sin(a), math.cos(e))
    back = (math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e))
    return np.array([right, up, back], dtype=np.float32)


class Renderer(Protocol):
    """Turns a mesh into pictures; a site may bring its own, the rest of mrdist knows no other word of it."""

    def render(self, mesh: Mesh, views: Views) -> list[View]:
        """One view per camera of `cameras(views)`, in that order, `views.pixels` wide and high.

        Raises:
            DataError: the mesh is not what `Mesh` promises.
            RecipeError: as `cameras`.
        """
        ...
