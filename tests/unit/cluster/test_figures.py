"""Rates, and who waits for whom, are plain sums over what happened to every unit."""

from __future__ import annotations

import pytest

from mrdist_cluster import figures
from mrdist_cluster.figures import Figures
from mrdist_cluster.rows import DONE, Report
from mrdist_cluster.settings import Fill


def told(monkeypatch: pytest.MonkeyPatch, *reports: tuple[float, Report]) -> Figures:
    held = Figures()
    for now, report in reports:
        monkeypatch.setattr(figures.time, "time", lambda now=now: now)
        held.add(report)
    return held


def unit(number: int, *, renderer: str, **times: float) -> Report:
    return Report(number, DONE, shapes=60, views=720, skipped=4, embeddings=800, renderer=renderer, teacher="t", **times)


def test_two_renderers_and_the_teacher_that_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    held = told(
        monkeypatch,
        (111, unit(0, drew=9.5, made=109.5, taken=110, taught=1, renderer="a")),
        (112, unit(1, drew=11, made=111, taken=111, taught=1, renderer="b")),
        (120, unit(2, drew=9.5, made=119, taken=119, taught=1, renderer="a")),
        (120, unit(3, drew=8, made=119, taken=119, taught=1, renderer="b")),
    )
    assert held.seconds == pytest.approx(20)  # from 100, when the first began, to 120
    assert (held.units, held.shapes, held.skipped, held.views, held.embeddings) == (4, 240, 16, 2880, 3200)
    assert held.rendering == pytest.approx(38 / 40)
    assert held.teaching == pytest.approx(4 / 20)
    assert held.queued == pytest.approx(0.5)
    assert held.line() == (
        "12 shapes/s, 144 views/s, 160 embeddings/s; 2 renderers 95% at work; 1 teacher 20% at work; "
        "0.0 units wait for a teacher; teachers wait for renderers"
    )


def test_renderers_that_wait_are_said_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    held = told(
        monkeypatch,
        (106, unit(0, drew=1, made=101, taken=101, taught=5, renderer="a")),
        (111, unit(1, drew=1, made=102, taken=106, taught=5, renderer="a")),
    )
    assert "0.4 units wait for a teacher; renderers wait for teachers" in held.line()


def test_the_fullest_moment_and_every_spilled_byte_are_kept() -> None:
    held = Figures(units=1, first=1, last=2)
    for fill in (Fill(1 << 30, 4 << 30, 0), Fill(3 << 30, 4 << 30, 0), Fill(2 << 30, 4 << 30, 7 << 20)):
        held.filled(fill)
    assert held.line() == "object store 75% of 4.0 GiB at most, 7 MB spilled"
    assert held.plain()["store_spilled"] == 7 << 20
