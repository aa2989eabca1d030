"""Encoders as Hugging Face keeps models: a folder, the card in it, and where downloaded ones lie. Nothing here uses the network."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from mrdist.contract import COLOUR, Contract
from mrdist.errors import CheckpointError

_NAME = re.compile(r"(?P<model>[\w.-]+/[\w.-]+)(?P<file>(/[\w.-]+)*)(@(?P<revision>[\w./-]+))?")


class Result(NamedTuple):
    """One figure of an encoder, for its card."""

    data: str
    split: str
    name: str  # "top-1"
    value: float  # share of the shapes


def cached(name: str) -> Path | None:
    """What was downloaded of `ORG/NAME`, `ORG/NAME@REVISION` or `ORG/NAME/FILE`: a folder, or a file.

    Reads the cache that `hf download` fills: `models--ORG--NAME/refs/main` names a revision, `snapshots/REVISION` holds its files.

    Returns:
        None where the name is not of that form.

    Raises:
        CheckpointError: it was not downloaded, or not that revision or file.
    """
    parts = _NAME.fullmatch(name)
    if parts is None or any(set(part) <= {"."} for part in re.split("[/@]", name)):
        return None
    home = place()
    kept = home / f"models--{parts['model'].replace('/', '--')}"
    revision = parts["revision"] or "main"
    pointer = kept / "refs" / revision
    snapshot = kept / "snapshots" / (pointer.read_text(encoding="ascii").strip() if pointer.is_file() else revision)
    found = snapshot / parts["file"].lstrip("/")
    if not found.exists():
        words = [parts["model"], parts["file"].lstrip("/"), f"--revision {revision}" if parts["revision"] else ""]
        raise CheckpointError(
            what=f"encoder {name}",
            got=f"no such folder or file, and no copy of it in {home}",
            wanted="an exported folder, a released file, or a model that was downloaded",
            try_=f"hf download {' '.join(word for word in words if word)}; or mrdist export RUN, for one of your own",
        )
    return found


def place() -> Path:
    """Where downloaded models lie: where the library says, which may have been told otherwise; without it, where it would by itself."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return Path.home() / ".cache" / "huggingface" / "hub"
    return Path(HF_HUB_CACHE)


def put(fresh: Path, folder: Path) -> None:
    """Bring a folder to the disk and to its name; what had that name is removed only then."""
    for path in fresh.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    old = fresh.with_name(f"{fresh.name}.old")
    if folder.exists():
        os.rename(folder, old)
    os.rename(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def card(contract: Contract, *, licence: str = "", results: Sequence[Result] = ()) -> str:
    """The model card of an encoder: Markdown, and above it what the hub's search reads.

    Args:
        licence: as the hub spells it, "apache-2.0"; it is yours to say. Empty: unknown.
    """
    facts = {
        "student": ", ".join(f"{name} {value}" for name, value in asdict(contract.student).items() if value != ""),
        "embedding": f"{contract.width} numbers, unit length",
        "points": f"{contract.points} per cloud, {contract.axis} up, {contract.scale}",
        "colour": COLOUR,
        "teacher": ", ".join(f"{name} {value}" for name, value in asdict(contract.teacher).items() if value != ""),
        "teacher's fingerprint": contract.teacher_fingerprint or "not recorded",
        **contract.trained,
        **{f"{one.name}, {one.split} of {one.data}": f"{100 * one.value:.1f} %" for one in results},
        "made with": f"mrdist {contract.mrdist}",
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
    return f"""---
{_front(contract, licence, results)}---
# A point-cloud encoder

```python
from mrdist import Points, from_pretrained

encoder = from_pretrained(".")  # this folder, or ORG/NAME once it is downloaded
points = Points.from_file("chair.glb", up="y", points={contract.points})
encoder.encode(points)  # [1, {contract.width}], unit length
encoder.similarity(points, ["a chair", "a table"])  # [1, 2]; needs the teacher
```

| | |
|---|---|
{table}"""


def _front(contract: Contract, licence: str, results: Sequence[Result]) -> str:
    """The card's metadata, in YAML. Strings are written as JSON, which is YAML, whatever is in them."""
    lines = [
        f"license: {json.dumps(licence or 'unknown')}",
        "library_name: mrdist",
        "pipeline_tag: feature-extraction",
        "tags: [point-cloud, 3d, zero-shot-classification, retrieval]",
    ]
    if results:
        lines += ["metrics: [accuracy]", "model-index:", f"- name: {json.dumps(contract.trained.get('recipe', 'mrdist'))}", "  results:"]
    for data, split in dict.fromkeys((one.data, one.split) for one in results):
        lines += [
            "  - task:",
            "      type: zero-shot-classification",
            "    dataset:",
            f"      name: {json.dumps(data)}",
            f"      type: {json.dumps(re.sub('[^a-z0-9-]+', '-', data.lower()).strip('-') or 'data')}",
            f"      split: {json.dumps(split)}",
            "    metrics:",
        ]
        for one in results:
            if (one.data, one.split) == (data, split):
                lines += ["    - type: accuracy", f"      name: {json.dumps(one.name)}", f"      value: {one.value:.4f}"]
    return "\n".join(lines) + "\n"
