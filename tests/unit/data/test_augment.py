"""What is done to a cloud is what Uni3D does, and every rule leaves the others alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mrdist.data.augment import augment, rotation
from mrdist.recipe import Augment
from mrdist.shapes import GREY

NOTHING = Augment(scale=(1.0, 1.0), shift=0.0, tilt=0.0, yaw=False, drop_colour=0.0, drop_points=0.0)
ALL = Augment(drop_points=0.5)


def cloud(points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    return random.uniform(-0.5, 0.5, (points, 3)).astype(np.float32), random.random((points, 3)).astype(np.float32)


def seen(rules: Augment, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return augment(*cloud(), rules, np.random.default_rng(seed))


def affine(xyz: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The matrix [3, 3] and offset [3] that turn `xyz` into `out`, in float64."""
    solution = np.linalg.lstsq(np.c_[xyz.astype(np.float64), np.ones(len(xyz))], out.astype(np.float64))[0]
    return solution[:3], solution[3]


def test_no_rule_changes_nothing_and_the_input_stays_as_it_is() -> None:
    xyz, rgb = cloud()
    for rules in (NOTHING, ALL):
        before = xyz.copy(), rgb.copy()
        out = augment(xyz, rgb, rules, np.random.default_rng(0))
        np.testing.assert_array_equal((xyz, rgb), before)
        assert not np.shares_memory(out[0], xyz)
        assert not np.shares_memory(out[1], rgb)
    np.testing.assert_array_equal(seen(NOTHING, 1), cloud())


def test_the_same_seed_sees_the_same_cloud() -> None:
    np.testing.assert_array_equal(seen(ALL, 3), seen(ALL, 3))
    assert not np.array_equal(seen(ALL, 3)[0], seen(ALL, 4)[0])


def test_it_is_scale_then_shift_then_a_small_rotation_then_yaw() -> None:
    """Against Uni3D's steps one by one, in float64, with the same draws."""
    for seed in range(50):
        rules = Augment(drop_colour=0.0)
        random = np.random.default_rng(seed)
        scale, *shift = random.random(4)
        angles = np.clip(0.06 * random.standard_normal(3), -0.18, 0.18)
        yaw = random.random() * 2 * np.pi
        xyz = cloud()[0].astype(np.float64) * (0.8 + 0.45 * scale) + (0.2 * np.array(shift) - 0.1)
        for axis, angle in ((0, angles[0]), (1, angles[1]), (2, angles[2]), (2, yaw)):
            a, b = (axis + 1) % 3, (axis + 2) % 3
            turned = xyz.copy()
            turned[:, a] = np.cos(angle) * xyz[:, a] - np.sin(angle) * xyz[:, b]
            turned[:, b] = np.sin(angle) * xyz[:, a] + np.cos(angle) * xyz[:, b]
            xyz = turned
        np.testing.assert_allclose(seen(rules, seed)[0], xyz, atol=1e-6)


def test_a_rotation_is_one() -> None:
    for x, y, z in np.random.default_rng(0).uniform(-4, 4, (20, 3)):
        turn = rotation(x, y, z)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_allclose([1.0, 0, 0] @ rotation(0, 0, np.pi / 2), [0, 1, 0], atol=1e-12)


def test_the_ranges_are_the_recipe_s() -> None:
    maps = [affine(cloud()[0], seen(replace(NOTHING, scale=(0.5, 2.0)), seed)[0]) for seed in range(300)]
    scales = np.array([np.cbrt(np.linalg.det(matrix)) for matrix, _ in maps])
    assert 0.5 <= scales.min() < 0.55
    assert 1.9 < scales.max() <= 2.0
    shifts = np.array([affine(cloud()[0], seen(replace(NOTHING, shift=0.2), seed)[0])[1] for seed in range(300)])
    assert (np.abs(shifts) <= 0.2 + 1e-6).all()
    assert (np.abs(shifts).max(0) > 0.19).all()
    tilts = np.array([affine(cloud()[0], seen(replace(NOTHING, tilt=0.06), seed)[0])[0] for seed in range(300)])
    angles = np.arccos(np.clip((np.trace(tilts, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert angles.max() < 3 * 0.06 * np.sqrt(3) + 1e-6
    assert 0.06 < angles.mean() < 0.13


def test_yaw_turns_about_the_up_axis_only_and_by_any_angle() -> None:
    turns = np.array([affine(cloud()[0], seen(replace(NOTHING, yaw=True), seed)[0])[0] for seed in range(200)])
    np.testing.assert_allclose(turns[:, 2], np.tile([0, 0, 1], (200, 1)), atol=1e-6)
    angles = np.arctan2(turns[:, 0, 1], turns[:, 0, 0])
    counts, _ = np.histogram(angles, 4, (-np.pi, np.pi))
    assert counts.min() > 30


def test_colour_is_dropped_for_all_points_or_none() -> None:
    dropped = 0
    for seed in range(400):
        rgb = seen(replace(NOTHING, drop_colour=0.5), seed)[1]
        if (rgb == np.float32(GREY)).all():
            dropped += 1
        else:
            np.testing.assert_array_equal(rgb, cloud()[1])
    assert 160 < dropped < 240


def test_dropped_points_become_the_first_one_and_its_colour() -> None:
    shares = []
    for seed in range(200):
        xyz, rgb = seen(replace(NOTHING, drop_points=0.875), seed)
        gone = (xyz == cloud()[0][0]).all(1)
        np.testing.assert_array_equal(xyz[~gone], cloud()[0][~gone])
        np.testing.assert_array_equal(rgb[gone], np.tile(cloud()[1][0], (gone.sum(), 1)))
        shares.append(gone.mean())
    assert max(shares) < 0.95
    assert 0.38 < np.mean(shares) < 0.5


@pytest.mark.parametrize("off", [{"scale": (1.0, 1.0)}, {"shift": 0.0}, {"tilt": 0.0}, {"yaw": False}, {"drop_colour": 0.0}])
def test_a_rule_that_is_off_changes_no_other(off: dict[str, object]) -> None:
    without = replace(ALL, **off)  # type: ignore[arg-type]
    for seed in range(10):
        (a, grey_a), (b, grey_b) = seen(ALL, seed), seen(without, seed)
        np.testing.assert_array_equal((a == a[0]).all(1), (b == b[0]).all(1))  # the same points are dropped
        if "drop_colour" in off:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_array_equal(grey_a, grey_b)
        if "yaw" in off and not np.allclose(a, b):
            np.testing.assert_allclose(a[:, 2], b[:, 2], atol=1e-6)  # heights do not know of yaw
