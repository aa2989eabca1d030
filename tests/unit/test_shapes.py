"""Points say where up is, and refuse what is not a cloud."""

from __future__ import annotations

import numpy as np
import pytest

from mrdist.errors import AxisError, DataError
from mrdist.shapes import GREY, Points, to_z_up


@pytest.mark.parametrize(("up", "column"), [("x", 0), ("y", 1), ("z", 2)])
def test_up_becomes_z_and_handedness_stays(up: str, column: int) -> None:
    axes = to_z_up(np.eye(3, dtype=np.float32), up)
    assert axes[column].tolist() == [0, 0, 1]
    assert np.linalg.det(axes) == pytest.approx(1)


def test_points_are_centred_in_the_unit_sphere() -> None:
    cloud = Points.of(np.random.default_rng(0).normal(size=(100, 3)) * 7 + 30, up="y")
    assert np.linalg.norm(cloud.xyz, axis=1).max() == pytest.approx(1)
    assert np.abs(cloud.xyz.min(0) + cloud.xyz.max(0)).max() < 1e-5
    assert (cloud.rgb == np.float32(GREY)).all()


def test_an_unknown_axis_is_an_error_with_a_remedy() -> None:
    with pytest.raises(AxisError, match="up='y' for glTF"):
        Points.of(np.eye(3), up="up")


@pytest.mark.parametrize(
    ("xyz", "rgb", "why"),
    [
        (np.zeros((0, 3)), None, "xyz of shape"),
        (np.zeros((4, 2)), None, "xyz of shape"),
        (np.full((4, 3), np.nan), None, "not finite"),
        (np.ones((4, 3)), None, "extent"),
        (np.eye(3), np.zeros((2, 3)), "rgb of shape"),
        (np.eye(3), np.full((3, 3), 255.0), "divide byte colours by 255"),
    ],
)
def test_what_is_not_a_cloud_is_refused(xyz: np.ndarray, rgb: np.ndarray | None, why: str) -> None:
    with pytest.raises(DataError, match=why):
        Points.of(xyz, rgb, up="z")
