"""A teacher that a run only remembers: loaded when it is asked something new."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrdist.errors import TeacherError
from mrdist.teachers.recalled import Recalled
from tests.unit.teachers.test_cache import Counting


class Shelf:
    """Opens a teacher, and counts how often."""

    def __init__(self) -> None:
        self.teacher, self.opened = Counting(), 0

    def __call__(self) -> Counting:
        self.opened += 1
        return self.teacher


def test_a_sentence_is_asked_once_and_then_nobody_loads_the_teacher_not_even_another_process(tmp_path: Path) -> None:
    shelf = Shelf()
    first = Recalled("counting", 8, tmp_path, shelf)
    assert (first.width, first.fingerprint, first.folder) == (8, "counting", None)
    assert shelf.opened == 0
    said = first.texts(["a chair", "a lamp"])
    np.testing.assert_allclose(said, Counting().texts(["a chair", "a lamp"]), atol=1e-3)
    np.testing.assert_array_equal(first.texts(["a lamp"]), said[1:])
    np.testing.assert_array_equal(Recalled("counting", 8, tmp_path, shelf).texts(["a lamp", "a chair"]), said[::-1])
    assert shelf.opened == 1
    assert shelf.teacher.asked == ["a chair", "a lamp"]


def test_what_nobody_has_remembered_the_teacher_is_asked(tmp_path: Path) -> None:
    shelf = Shelf()
    recalled = Recalled("counting", 8, tmp_path, shelf)
    assert recalled.supplies == {"image", "text"}
    np.testing.assert_array_equal(recalled.images([b"a"]), Counting().images([b"a"]))
    recalled.texts(["a chair"])
    recalled.texts(["a chair", "a lamp"])
    assert shelf.teacher.asked == [b"a", "a chair", "a lamp"]


def test_a_teacher_whose_weights_have_changed_is_not_taken_for_the_one_that_embedded(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="mrdist prepare"):
        Recalled("another", 8, tmp_path, Shelf()).texts(["a chair"])


def test_a_teacher_that_was_made_here_has_a_folder_for_exports(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.teacher.folder = tmp_path / "fitted"  # type: ignore[attr-defined]
    assert Recalled("counting", 8, tmp_path, shelf, made_here=True).folder == tmp_path / "fitted"
    assert Recalled("counting", 8, tmp_path, shelf).folder is None
