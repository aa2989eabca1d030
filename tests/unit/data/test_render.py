"""Where the cameras stand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mrdist.data.render import AMBIENT, GOLDEN, KEY, KEY_TOWARDS, LAMP, RINGS, axes, cameras, distance
from mrdist.errors import RecipeError
from mrdist.recipe import Views
from mrdist.shapes import Camera

RING = pytest.mark.parametrize("ring", RINGS)


def test_openshapes_twelve_are_the_published_ones() -> None:
    published = [
        (60, 30),
        (60, 120),
        (60, 210),
        (60, 300),
        (90, 60),
        (90, 150),
        (90, 240),
        (90, 330),
        (120, 0),
        (120, 90),
        (120, 180),
        (120, 270),
    ]
    assert [(90 - camera.elevation, camera.azimuth) for camera in cameras(Views())] == published


@RING
def test_nothing_but_the_recipe_decides_where_cameras_stand(ring: str) -> None:
    views = Views(ring=ring)
    assert cameras(views) == cameras(replace(views)) == RINGS[ring]
    assert cameras(replace(views, pixels=64, background=0, supersampling=1)) == RINGS[ring]


def test_a_ring_that_is_turned_goes_around_the_up_axis_and_no_turn_repeats_another() -> None:
    still = Views(ring="ring12")
    for camera, turned in zip(cameras(still), cameras(replace(still, turn=90.0)), strict=True):
        right, up, back = axes(camera)
        around = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
        np.testing.assert_allclose(axes(turned), np.stack([right, up, back]) @ around.T, atol=1e-6)
    # However often the golden angle is added, no camera of twelve comes near where one stood before.
    places = np.sort([camera.azimuth % 30 for r in range(8) for camera in cameras(replace(still, turn=r * GOLDEN))[:1]])
    assert np.diff([*places, places[0] + 30]).min() > 1


@RING
def test_no_two_cameras_of_a_ring_see_the_same(ring: str) -> None:
    back = np.stack([axes(camera)[2] for camera in cameras(Views(ring=ring))])
    assert (back @ back.T - np.eye(len(back))).max() < np.cos(np.radians(15))


@RING
@pytest.mark.parametrize("fov", [5.0, 43.0, 100.0])
def test_the_unit_sphere_fits_every_picture_and_fills_it(ring: str, fov: float) -> None:
    for camera in cameras(Views(ring=ring, fov=fov)):
        half_width_of_sphere = np.degrees(np.arcsin(1 / camera.distance))
        assert 0.9 * fov / 2 < half_width_of_sphere < fov / 2
        assert camera.fov == fov


@pytest.mark.parametrize("camera", [camera for ring in RINGS.values() for camera in ring] + [Camera(40, e, 3, 43) for e in (90, -90)])
def test_axes_are_a_right_hand_with_up_towards_z(camera: Camera) -> None:
    right, up, back = axes(camera).astype(np.float64)
    np.testing.assert_allclose(np.stack([right, up, back]) @ np.stack([right, up, back]).T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.cross(right, up), back, atol=1e-6)
    assert up[2] >= 0
    assert right[2] == 0


def test_azimuth_and_elevation_mean_what_they_say() -> None:
    np.testing.assert_allclose(axes(Camera(0, 0, 3, 43))[2], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(axes(Camera(90, 0, 3, 43))[2], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(axes(Camera(123, 90, 3, 43))[2], [0, 0, 1], atol=1e-6)


def test_a_narrower_view_stands_farther_away() -> None:
    assert distance(20) > distance(43) > distance(90) > 1


def test_white_in_full_light_is_white_and_nothing_clips() -> None:
    np.testing.assert_allclose(AMBIENT + LAMP + KEY, 1)
    assert np.linalg.norm(KEY_TOWARDS) == pytest.approx(1, abs=1e-3)


def test_an_unknown_ring_comes_with_the_nearest_one() -> None:
    with pytest.raises(RecipeError, match=r"views\.ring=openshape12"):
        cameras(Views(ring="openshape"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"pixels": 0},
        {"pixels": 100_000},
        {"supersampling": 0},
        {"supersampling": 9},
        {"fov": 0.0},
        {"fov": 180.0},
        {"background": 256},
        {"turn": float("nan")},
    ],
)
def test_a_picture_that_cannot_be_made_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=f"views.{next(iter(wrong))}"):
        cameras(replace(Views(), **wrong))  # type: ignore[arg-type]


def test_too_many_samples_are_refused() -> None:
    with pytest.raises(RecipeError, match="supersampling"):
        cameras(Views(pixels=4096, supersampling=4))
