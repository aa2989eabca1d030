"""The workers of the pipeline's pools: a few lines of Ray each, around what `mrdist prepare` does alone."""

from __future__ import annotations

import os
import platform
import time
from functools import cached_property

import pyarrow as pa

from mrdist.data.claims import Claims
from mrdist.data.crew import Crew
from mrdist.data.renders import Drawn
from mrdist.data.shards import Shards, unit_name
from mrdist.errors import DataError
from mrdist.prepare.units import announce, crew_of, open_teacher, read_unit, teach_unit
from mrdist.prepare.work import Round
from mrdist.teachers.base import Teacher
from mrdist.teachers.cache import Cache
from mrdist_cluster.quarantine import draw_in_spite
from mrdist_cluster.rows import DAMAGED, DONE, ELSEWHERE, Report, drawn_of, report_of, unit_of


class RenderActor:
    """Draws units; passes over those that are drawn, and those that another pipeline or process is drawing."""

    def __init__(self, round: Round, pipeline: str, carry: bool) -> None:
        """
        Args:
            pipeline: the name of whoever hands out the units.
            carry: whether a teacher wants next what is drawn here.
        """
        self._round, self._pipeline, self._carry = round, pipeline, carry
        self._shards = Shards(round.renders)
        self._claims = Claims(round.renders, by=pipeline).__enter__()

    @cached_property
    def _crew(self) -> Crew:
        return crew_of(self._round, self._round.recipe.pools.renderer_cores)

    def __call__(self, row: pa.Table) -> pa.Table:
        number, shapes = unit_of(row)
        report = Report(number, renderer=_me())
        if self._shards.has(unit_name(number)):
            return report.table()
        if not self._claims.take(unit_name(number)):
            return report._replace(state=ELSEWHERE).table()
        try:
            if self._shards.has(unit_name(number)):  # whoever held it before has done it
                return report.table()
            crew, retries = self._crew, self._round.recipe.pools.retries
            began = time.time()
            drawn = draw_in_spite(self._round, number, shapes, crew, pipeline=self._pipeline, retries=retries)
        finally:
            self._claims.release(unit_name(number))
        report = report._replace(
            state=DONE, shapes=len(drawn.notes["shapes"]), skipped=len(drawn.notes["skipped"]), views=len(drawn.arrays["jpeg_at"]) - 1,
            drew=time.time() - began, made=time.time(),
        )  # fmt: skip
        return report.table(drawn if self._carry else None)


class TeachActor:
    """Embeds units that were drawn, and writes their parts; passes over what others embed or have embedded."""

    def __init__(self, first: Round, round: Round, pipeline: str) -> None:
        """
        Args:
            first: the round that the teacher may have to learn from.
        """
        self._first, self._round, self._pipeline = first, round, pipeline

    @cached_property
    def _teacher(self) -> Teacher:
        """The first time of all it may have to learn, which one process does for everybody; then it is known whose embeddings will come."""
        teacher = open_teacher(self._first)
        announce(self._first, teacher)
        return teacher

    @cached_property
    def _known(self) -> Cache:
        return Cache(self._round.embeddings, self._teacher.fingerprint)

    @cached_property
    def _claims(self) -> Claims:
        return Claims(self._round.triplets(self._teacher.fingerprint), by=self._pipeline).__enter__()

    def __call__(self, row: pa.Table) -> pa.Table:
        report, claims, shards = report_of(row), self._claims, Shards(self._claims.folder)
        report, name = report._replace(teacher=_me(), taken=time.time()), unit_name(report.unit)
        if shards.has(name):
            return report.table()
        if report.state == ELSEWHERE or not claims.take(name):
            return report._replace(state=ELSEWHERE).table()
        try:
            if shards.has(name):
                return report.table()
            began = time.time()
            drawn = drawn_of(row) or self._read(report.unit)
            if drawn is None:
                return report._replace(state=DAMAGED).table()
            teach_unit(self._round, drawn, self._teacher, self._known)
        finally:
            claims.release(name)
        shapes = drawn.notes["shapes"]
        embeddings = len(drawn.arrays["jpeg_at"]) - 1 + sum(len(one["captions"]) for one in shapes)
        return report._replace(state=DONE, shapes=len(shapes), embeddings=embeddings, taught=time.time() - began).table()

    def _read(self, number: int) -> Drawn | None:
        try:
            return read_unit(self._round, number)
        except DataError:  # it counts as not drawn now, and is drawn again
            return None


def _me() -> str:
    return f"{platform.node()}:{os.getpid()}"
