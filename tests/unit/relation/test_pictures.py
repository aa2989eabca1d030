"""A relation looks like what it is."""

from __future__ import annotations

import pytest
import torch

from mrdist.relation.pictures import _diverging, _sequential, drawn, picture, triptych


@pytest.mark.parametrize("size", [1, 7, 100, 384, 1000])
def test_any_size_becomes_a_square_picture(size: int) -> None:
    image = picture(torch.rand(size, size))
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    assert image.shape[1] == image.shape[2] >= min(size, 192)
    assert image.shape[1] <= 384


def test_larger_is_brighter_and_zero_is_dark() -> None:
    image = picture(torch.linspace(0, 1, 100).repeat(100, 1), high=1.0, pixels=100).double()
    luminance = torch.einsum("c,chw->w", torch.tensor([0.21, 0.72, 0.07], dtype=torch.float64), image)
    assert torch.all(luminance.diff() > -1e-9)
    assert luminance[0] < 0.1 * luminance[-1]


def test_a_difference_is_white_where_there_is_none() -> None:
    matrix = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    image = picture(matrix, signed=True, high=1.0, pixels=2)
    assert image[:, 0, 0].min() > 240
    red, blue = image[:, 0, 1], image[:, 1, 0]
    assert red[0] > red[2]
    assert blue[2] > blue[0]


def test_numbers_that_are_not_finite_do_no_harm() -> None:
    matrix = torch.tensor([[float("nan"), 1.0], [float("inf"), float("-inf")]])
    assert picture(matrix).shape == (3, 384, 384)
    assert picture(torch.zeros(3, 3)).float().std() < 20


def test_a_line_stands_where_the_category_changes() -> None:
    categories = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3))
    plain, ruled = picture(torch.zeros(5, 5), pixels=50), picture(torch.zeros(5, 5), categories=categories, pixels=50)
    changed = (plain != ruled).any(0)
    assert changed[20].all()
    assert changed[:, 20].all()
    assert changed.sum() == 50 + 50 - 1


def test_student_and_teacher_share_a_scale_and_the_difference_has_its_own() -> None:
    student, teacher = torch.full((4, 4), 0.5), torch.full((4, 4), 1.0)
    held = drawn({"student": student, "teacher/image": teacher, "difference/image": student - teacher, "categories": torch.eye(4)})
    assert held["student"].float().mean() < held["teacher/image"].float().mean()
    assert set(held) == {"student", "teacher/image", "difference/image", "categories"}
    wide = triptych(student, teacher, pixels=64)
    assert wide.shape == (3, 64, 3 * 64 + 12)


@pytest.mark.parametrize("table", [_sequential, _diverging])
def test_a_colour_table_has_no_jump(table: object) -> None:
    colours = torch.from_numpy(table()).int()  # type: ignore[operator]
    assert colours.shape == (256, 3)
    assert colours.diff(dim=0).abs().max() <= 16
