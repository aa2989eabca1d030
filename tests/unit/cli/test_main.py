"""What every command line owes its user, whatever the verb."""

from __future__ import annotations

import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from mrdist.cli.main import EXTRAS, YOURS

ROOT = Path(__file__).resolve().parents[3]


def without(package: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command line says where a package is not installed."""
    program = f"import sys; sys.modules[{package!r}] = None; from mrdist.cli.main import main; sys.exit(main({list(words)!r}))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)


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
