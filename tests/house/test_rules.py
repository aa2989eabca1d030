"""The rules of the house: who may import whom, who may print, who may know what."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "mrdist").rglob("*.py"), *(ROOT / "cluster").rglob("*.py")])


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)


def code(path: Path) -> str:
    """A file without its comments and strings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(tree)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_point_down_and_the_core_knows_no_cluster() -> None:
    found = run("-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--config", "setup.cfg")
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_line_is_typed() -> None:
    found = run("-m", "mypy")
    assert found.returncode == 0, found.stdout


def test_the_style_is_kept() -> None:
    for verb in (["check", "."], ["format", "--check", "."]):
        found = run("-m", "ruff", *verb)
        assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    "folder",
    [
        "mrdist/training",
        "mrdist/scaling",
        "mrdist/evaluation",
        "mrdist/cli",
        "cluster",
        "mrdist/data",
        "mrdist/students",
        "mrdist/teachers",
    ],
)
def test_only_objectives_know_a_methods_name(folder: str) -> None:
    method = re.compile(r"\b(mrd|cross_?most|cmcr|concept)\b", re.IGNORECASE)
    knowing = [f"{name(p)}: {m.group()}" for p in (ROOT / folder).rglob("*.py") for m in method.finditer(p.read_text())]
    assert not knowing


def test_only_ranks_and_zero_call_a_collective() -> None:
    call = re.compile(
        r"\b(all_reduce|all_gather\w*|reduce_scatter\w*|all_to_all\w*|broadcast|broadcast_object_list|barrier|init_process_group)\("
    )
    allowed = {"mrdist/ranks.py", "mrdist/meeting.py", "mrdist/training/zero.py", "mrdist/testing.py"}
    calling = [
        f"{name(p)}: {m.group()}" for p in SOURCES if name(p) not in allowed for m in call.finditer(code(p)) if "torch." not in m.group()
    ]
    assert not calling


def test_only_the_command_line_and_the_watchers_print() -> None:
    def prints(path: Path) -> bool:
        return any(
            isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print" for n in ast.walk(ast.parse(path.read_text()))
        )

    printing = [name(p) for p in SOURCES if prints(p) and "/cli/" not in name(p) and name(p) != "mrdist/training/watchers.py"]
    assert not printing


def test_nothing_unpickles() -> None:
    danger = re.compile(r"allow_pickle=True|weights_only=False|\bpickle\.loads?\(|\bdill\b|\bjoblib\b")
    loads = re.compile(r"torch\.load\((?![^)]*weights_only=True)")
    found = [f"{name(p)}: {m.group()}" for p in SOURCES for pattern in (danger, loads) for m in pattern.finditer(code(p))]
    assert not found


def test_no_file_is_longer_than_a_chapter() -> None:
    assert not [f"{name(p)}: {n}" for p in SOURCES if (n := len(p.read_text().splitlines())) > 300]


def test_every_module_says_what_lives_there() -> None:
    assert not [name(p) for p in SOURCES if p.read_text().strip() and not ast.get_docstring(ast.parse(p.read_text()))]


def test_no_environment_variable_decides_below_the_command_line() -> None:
    allowed = {
        "mrdist/ranks.py",  # which rank this is, and
        "mrdist/meeting.py",  # the meeting point, as a launcher names them
        "mrdist/training/zero.py",  # DeepSpeed wants its own meeting point in the environment
        "mrdist/testing.py",
        "mrdist/data/sandbox.py",  # hands its own environment on to a child
        "cluster/mrdist_cluster/slurm.py",  # what another job left in the environment is not handed on
        "cluster/mrdist_cluster/settings.py",  # which cluster: Ray says it in the environment
    }
    reading = [
        name(p) for p in SOURCES if re.search(r"os\.(environ|getenv)", code(p)) and name(p) not in allowed and "/cli/" not in name(p)
    ]
    assert not reading


def test_the_listed_packages_are_the_folders() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    roots = {ROOT / "mrdist": ROOT, ROOT / "cluster": ROOT / "cluster"}
    found = {".".join(p.parent.relative_to(root).parts) for folder, root in roots.items() for p in folder.rglob("__init__.py")}
    assert listed == found | {"mrdist_configs"}


def test_no_machine_and_no_index_is_named() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    private = re.compile(r"/(work|opt/wheels|opt/pypi)\b|files\.pythonhosted|download\.pytorch|deb\.debian|index-url")
    texts = [p for p in tracked if not p.endswith((".png", ".npz")) and p != "tests/house/test_rules.py"]
    assert not [
        f"{p}: {m.group()}" for p in texts if (ROOT / p).is_file() for m in private.finditer((ROOT / p).read_text(errors="replace"))
    ]
