"""Progress says each thing once, with the time left."""

from __future__ import annotations

import io

from mrdist.cli.screen import Screen


def test_a_stage_that_ends_is_said_once() -> None:
    out = io.StringIO()
    screen = Screen(out=out)
    for done in (0, 1, 2, 2):
        screen("render", done, 2)
    screen("embed", 3, 3)
    assert [line.split()[0] for line in out.getvalue().splitlines()] == ["render", "embed"]


def test_a_file_gets_one_line_per_interval_with_the_time_left() -> None:
    out = io.StringIO()
    screen = Screen(out=out, interval=0.0)
    for done in range(3):
        screen("render", done, 3)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert "left" in lines[-1]
    assert "\r" not in out.getvalue()


def test_quiet_says_nothing() -> None:
    out = io.StringIO()
    Screen(quiet=True, out=out)("render", 1, 1)
    assert out.getvalue() == ""
