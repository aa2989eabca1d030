"""What every command line owes its user, whatever the verb."""

from __future__ import annotations

import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from mrdist.cli.main import DONE, EXTRAS, VERBS, YOURS, main
from tests.waiting import LATE

ROOT = Path(__file__).resolve().parents[3]


def without(package: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command line says where a package is not installed."""
    program = f"import sys; sys.modules[{package!r}] = None; from mrdist.cli.main import main; sys.exit(main({list(words)!r}))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=LATE)


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("submitit", ("submit", "smoke", "site=local", "--dry-run")),
        ("submitit", ("scale", "scaling/backbone", "launcher=slurm", "--dry-run")),
        ("ray", ("pipeline", "smoke")),
    ],
)
def test_a_package_that_only_clusters_need_is_missed_with_its_remedy(package: str, words: tuple[str, ...]) -> None:
    done = without(package, *words)
    assert done.returncode == YOURS
    assert done.stderr.startswith(f"error: {package}: got not installed, wanted ")
    assert done.stderr.endswith("Try: ./install.sh '.[cluster]' in the checkout\n")
    assert "Traceback" not in done.stderr


def test_any_other_missing_package_is_a_bug() -> None:
    assert "This is a bug of mrdist" in without("omegaconf", "plan", "smoke").stderr


def test_the_packages_that_may_be_missing_are_those_of_the_extras() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    named = {line.split()[0].split("[")[0] for name in ("zero", "cluster") for line in extras[name].strip().splitlines()}
    assert set(EXTRAS) == named - {"mrdist"}


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("submit", ("site=NAME", "parallel=", "width=", "hours=", "--dry-run")),
        ("jobs", ("cancel RUN", "runs=FOLDER")),
        ("logs", ("rank=N", "follow=true", "runs=FOLDER")),
        ("why", ("RUN", "runs=FOLDER")),
        ("pipeline", ("RECIPE", "pools.renderers")),
        ("scale", ("launcher=local|slurm|ray", "jobs=K", "launcher.site")),
        *((verb, ()) for verb in VERBS),
    ],
)
def test_every_verb_says_its_words(verb: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "smoke", "--help"]) == DONE
    said = capsys.readouterr().out
    assert said.startswith(f"mrdist {verb} ")
    assert len(said.splitlines()) > 2, "and what it does"
    assert "Raises" not in said
    assert not [word for word in words if word not in said]
    assert main(["help", verb]) == DONE
    assert capsys.readouterr().out == said


def test_help_of_a_verb_that_does_not_exist_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sumbit", "--help"]) == YOURS
    assert "Try: mrdist submit" in capsys.readouterr().err
