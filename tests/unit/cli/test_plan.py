"""What `mrdist plan` says, word for word, of a device that nobody has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mrdist.cli.main import DONE, Flags
from mrdist.cli.plan import plan
from mrdist.errors import RecipeError

SITE = "device: fake\nmemory: 24\nbf16: 100\nfp32: 20\nnodes: 4\ngpus: 2\ncores: 8\nhost: 64\nhours: 0.002\ninside: 100\nbetween: 10\n"
GOLDEN = Path(__file__).with_name("plan.txt")


@pytest.fixture
def site(tmp_path: Path) -> str:
    (tmp_path / "fake.yaml").write_text(SITE)
    return f"site={tmp_path / 'fake.yaml'}"


def test_the_screen_says_what_everything_costs_and_why(site, capsys):
    assert plan(["smoke", site, "nodes=2", "engine=zero2", "batch=4096", "shapes=2000", "--no-measure"], Flags()) == DONE
    assert capsys.readouterr().out == GOLDEN.read_text()


def test_what_does_not_fit_is_shown_and_refused_with_a_remedy_that_fits(site, capsys):
    words = ["smoke", site, "nodes=1", "gpus=1", "memory=0.1", "--no-measure"]
    with pytest.raises(RecipeError) as refused:
        plan(words, Flags())
    assert "does not fit" in capsys.readouterr().out
    assert plan([*words, refused.value.try_], Flags()) == DONE
    assert "ok: it fits" in capsys.readouterr().out


def test_a_ring_of_cameras_that_nobody_knows_is_refused_with_those_that_are_known(site):
    with pytest.raises(RecipeError, match=r"views\.ring: got 'foo', wanted one of openshape12, ring12, sphere24, front4"):
        plan(["smoke", site, "views.ring=foo"], Flags())


def test_machines_read_the_same_numbers(site, capsys):
    assert plan(["smoke", site, "nodes=2", "engine=zero2", "batch=4096", "--no-measure"], Flags(json=True)) == DONE
    bill = json.loads(capsys.readouterr().out)
    assert (bill["rows"], bill["mode"], bill["fits"], bill["footprint"]) == (1024, "row", True, "counted")
    assert bill["needed"] == pytest.approx(sum(sum(bill["memory"][k].values()) for k in ("states", "activations", "relation", "inputs")))


def test_a_small_student_is_measured_here_where_nobody_says_otherwise(capsys):
    assert plan(["smoke"], Flags()) == DONE
    assert "measured on" in capsys.readouterr().out


def test_a_table_of_scale_doubles_ranks_keeps_rows_and_lists_what_it_stands_on(site, capsys):
    assert plan(["smoke", site, "--scale", "2", "16"], Flags()) == DONE
    above, _, below = capsys.readouterr().out.partition("stands on")
    rows = [line.split() for line in above.splitlines()[2:] if line.strip()]
    assert [row[0] for row in rows] == ["2", "4", "8", "16"]
    assert [row[1] for row in rows] == ["128", "256", "512", "1,024"], "64 rows each"
    shares = [int(row[-1].rstrip("%")) for row in rows]
    assert shares == sorted(shares, reverse=True)
    for name in ("usable", "matrix", "network", "views_per_core", "teacher_share"):
        assert f"  {name} = " in below


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "mrdist plan"), (["smoke", "nodes=two"], "nodes"), (["smoke", "--scale", "8"], "--scale"), (["smoke", "--fast"], "--fast"),
        (["smoke", "site=nowhere"], "site 'nowhere'"), (["smoke", "nodes=2"], "nodes"),
    ],
)  # fmt: skip
def test_words_that_mean_nothing_are_refused_by_name(words, what):
    with pytest.raises(RecipeError) as refused:
        plan(words, Flags())
    assert refused.value.what == what
