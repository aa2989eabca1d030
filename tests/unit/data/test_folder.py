"""A folder of somebody's own meshes as a dataset."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrdist.data.sources.folder import FolderConfig
from mrdist.errors import DataError, RecipeError


def test_a_folder_is_used_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "chairs").mkdir()
    (tmp_path / "chairs/red.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    catalog = FolderConfig(path=str(tmp_path), up="z", test=1.0, val=0.0).open(tmp_path / "store")
    (shape,) = catalog
    assert (shape.mesh, shape.up, shape.split, shape.category) == (tmp_path / "chairs/red.off", "z", "test", "chairs")
    assert not (tmp_path / "store").exists()


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    for val, test in ((0.5, 0.5), (-0.1, 0.2), (0.0, 1.0)):
        with pytest.raises(RecipeError, match="wanted shares"):
            FolderConfig(val=val, test=test).check(None)
    FolderConfig().check(None)


def test_an_axis_that_is_none_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"data\.up: got 'up', wanted x, y or z"):
        FolderConfig(up="up").check(None)


def test_no_path_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path: got nothing, wanted a folder of meshes"):
        FolderConfig().open(tmp_path)
