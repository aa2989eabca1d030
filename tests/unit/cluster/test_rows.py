"""What goes from pool to pool arrives as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrdist.data.renders import Drawn
from mrdist.shapes import Shape
from mrdist_cluster.rows import DONE, THERE, Report, asked, drawn_of, report_of, unit_of

ARRAYS = {
    "xyz": np.arange(12, dtype=np.float16).reshape(2, 2, 3),
    "jpeg": np.frombuffer(b"\xff\xd8 two pictures", np.uint8),
    "none": np.zeros((0, 3), np.int64),
}
DRAWN = Drawn(7, ARRAYS, {"shapes": [{"id": "Stuhl – ein Stück", "captions": ["a chair"]}], "skipped": []})


def test_a_unit_is_asked_for_with_all_that_is_known_of_its_shapes() -> None:
    import pyarrow as pa

    shapes = [
        Shape("a", Path("/meshes/a.glb"), ("one", "two"), "chair", "z", "test", "somewhere", "CC0", "0" * 64),
        Shape("é", Path("/meshes/é.obj")),
    ]
    row = pa.Table.from_pylist([asked(7, shapes)])
    assert unit_of(row) == (7, shapes)
    assert report_of(row) == Report(7, THERE)
    assert drawn_of(row) is None


def test_what_was_drawn_arrives_bit_for_bit() -> None:
    report = Report(7, DONE, shapes=2, views=24, drew=1.5, made=1e9 + 0.25, renderer="node:12")
    row = report.table(DRAWN)
    assert row.num_rows == 1
    assert report_of(row) == report
    found = drawn_of(row)
    assert found is not None
    assert (found.number, found.notes) == (7, DRAWN.notes)
    assert found.arrays.keys() == DRAWN.arrays.keys()
    for name, held in DRAWN.arrays.items():
        assert found.arrays[name].dtype == held.dtype
        np.testing.assert_array_equal(found.arrays[name], held)


def test_a_row_without_arrays_has_the_columns_of_one_with_them() -> None:
    assert Report(7).table().schema == Report(7).table(DRAWN).schema
    assert drawn_of(Report(7).table()) is None
