"""What `mrdist submit` makes of its words before anything is queued."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrdist.cli.main import DONE, YOURS, main
from mrdist.data.synthetic import SyntheticConfig
from mrdist.prepare import prepare
from mrdist.recipe import load, to_yaml


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a site and two runs, from which one submits."""
    (tmp_path / "my.yaml").write_text("partition: train\ndevice: core\n")
    for name in ("2026-03-02-smoke-7f3a", "2026-03-02-smoke-90c1"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "recipe.yaml").write_text(to_yaml(load("smoke", ["seed=7"])))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_partition_belongs_into_the_site_file(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "smoke", "site=my.yaml", "partition=fast", "--dry-run"]) == YOURS
    assert "partition: got a word, wanted a line of the site file" in capsys.readouterr().err


def test_variables_that_are_dropped_are_named(lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_MEM_BIND", "none")
    monkeypatch.setenv("SBATCH_PARTITION", "fast")
    assert main(["submit", "smoke", "site=my.yaml", "--dry-run", "-q"]) == DONE
    said = capsys.readouterr()
    assert said.err == "not handed on: SBATCH_MEM_BIND; the site may say it: sbatch: {mem-bind: ...}\n"
    assert "#SBATCH --partition=train" in said.out


def test_a_run_goes_on_by_the_end_of_its_name(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "7f3a", "site=my.yaml", "--dry-run", "-q"]) == DONE
    assert "#SBATCH --job-name=smoke" in capsys.readouterr().out
    assert main(["submit", "7f3a", "site=my.yaml", "seed=9", "--dry-run", "-q"]) == YOURS
    assert "2026-03-02-smoke-7f3a: got seed (7 before, 9 now), wanted the recipe of this run" in capsys.readouterr().err


def test_a_recipe_that_is_mistyped_is_no_run(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "smok", "site=my.yaml", "--dry-run", "-q"]) == YOURS
    assert "no such recipe" in capsys.readouterr().err


def test_what_no_rank_could_train_is_refused_before_the_queue(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "mrd/base", "site=my.yaml", "--dry-run"]) == 1
    assert "error: data.path: got nothing" in capsys.readouterr().err
    assert main(["submit", "smoke", "site=my.yaml", "evaluate.splits=[test],[tset]", "--dry-run"]) == 1
    assert "evaluate.splits: got 'tset'" in capsys.readouterr().err


def test_ranks_that_would_render_first_are_announced_with_the_line_that_does_it_before(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["submit", "smoke", "site=my.yaml", "seed=1,2", "--dry-run"]
    assert main(words) == DONE
    assert "prepare   not all is prepared" in (said := capsys.readouterr().out)
    assert "Before: mrdist prepare smoke seed=1\n" in said
    assert main([*words, "live=true"]) == DONE
    assert "prepare   " not in capsys.readouterr().out


def test_a_prepared_store_is_not_prepared_again(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["points=64", "sample=64", "steps=1", "optim.warmup=0", "teacher.steps=1", "teacher.batch=2", "views.ring=front4"]
    recipe = load(
        "smoke", [*changes, "data.train=1", "data.val=0", "data.test=1", "data.unseen=1", "student.groups=8", "student.group_size=8"]
    )
    assert isinstance(recipe.data, SyntheticConfig)
    (lab / "mine.yaml").write_text(to_yaml(recipe))
    prepare(load("mine.yaml"))
    assert main(["submit", "mine.yaml", "site=my.yaml", "--dry-run"]) == DONE
    assert "prepare   " not in capsys.readouterr().out
