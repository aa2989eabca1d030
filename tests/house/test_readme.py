"""What the documents say can be typed: their links, targets, verbs and recipes exist."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

from mrdist.cli.main import VERBS
from mrdist.recipe import load

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]


def typed(page: Path) -> list[str]:
    """The lines of a page's code blocks, and its inline code."""
    blocks = re.findall(r"```\w*\n(.*?)```", page.read_text(), re.DOTALL)
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", prose)


def plugged_in() -> list[str]:
    """The verbs that `mrdist[cluster]` adds."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return re.findall(r"^(\w+) *=", setup["options.entry_points"]["mrdist.commands"], re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_targets_verbs_and_recipes_exist(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in typed(page):
        if found := re.match(r"make (\w+)$", line):
            assert found[1] in targets
        if found := re.match(r"(?:torchrun .*-m )?mrdist ([a-z]+)(?: ([a-z_/]+)(?= |$))?", line):
            assert found[1] in {*VERBS, *plugged_in()}
            if found[1] in ("train", "prepare", "doctor") and found[2]:
                load(found[2])


def test_files_that_the_tour_names_exist() -> None:
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_0-9]+\.py)`", "".join(page.read_text() for page in PAGES))
    assert named
    assert not [name for name in named if not any((ROOT / place / name).is_file() for place in ("mrdist", "."))]
