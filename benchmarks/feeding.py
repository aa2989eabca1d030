"""How long a rank waits for the renderer and the teacher that feed it while it trains, and how fast it is without them.

    python benchmarks/feeding.py [SHAPES]        # training shapes (1200): epochs are so long

Each student trains twice on a private Ray: first beside the pipeline, on a store that grows, then on what that has made. The first one
takes shapes much faster than one renderer draws them, the last one more slowly. Shapes are the embedded solids, 12 views of 64 pixels; the
teacher is a small CLIP with nearly random weights, ready from the start. Rank, renderer and teacher want three cores: with fewer, they
take turns, and what the rank loses to the others shows in its rate. The first step of a run imports and allocates: it stands by itself,
and the pipeline goes on meanwhile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from pipeline import small_teacher

from mrdist.recipe import Recipe, load, to_yaml
from mrdist.teachers.clip import ClipConfig
from mrdist_cluster import settings
from mrdist_cluster.book import Node
from mrdist_cluster.settings import joined

EPOCHS, BATCH = 2, 60
STUDENTS = {
    "micro": ["student=micro"],
    "micro, 4 x as wide and deep": ["student=micro", "student.dim=384", "student.depth=12", "student.heads=6", "student.hidden=768"],
}


def recipe_of(folder: Path, shapes: int, student: list[str]) -> Recipe:
    each = -(-shapes // 30)  # the embedded solids that are trained on are of 30 classes
    words = [
        "name=feeding", f"batch={BATCH}", f"steps={EPOCHS * (30 * each // BATCH)}", "optim.warmup=0", f"data.train={each}", "data.val=0",
        "data.test=1", "data.unseen=1", "pools.renderers=[1,1]", "pools.teachers=[1,1]", "workers=1", "watch.pictures_every=0", *student,
    ]  # fmt: skip
    return replace(load("smoke", words), teacher=ClipConfig(model=str(small_teacher(folder / "few"))))


def steps(folder: Path, recipe: Recipe, address: str) -> list[dict[str, float]]:
    """What a run wrote down of its steps."""
    file = folder / "recipe.yaml"
    file.write_text(to_yaml(recipe))
    environment = {**os.environ, "RAY_ADDRESS": address, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mrdist_cluster", "train", str(file), f"runs={folder / 'runs'}"]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    (metrics,) = (folder / "runs").glob("*/metrics.jsonl")
    return [json.loads(line) for line in metrics.read_text().splitlines()]


def said(taken: list[dict[str, float]]) -> str:
    seconds, waited = (sum(step[name] for step in taken) for name in ("seconds", "wait"))
    return f"{len(taken) * BATCH / seconds:9.1f} {waited / seconds:8.0%}"


def main() -> None:
    shapes = int(sys.argv[1]) if len(sys.argv) > 1 else 1200
    settings.here = lambda: Node("here", 3)
    with tempfile.TemporaryDirectory() as temporary, joined():
        import ray

        address = ray.get_runtime_context().gcs_address
        print(f"{'shapes/s, and share of the time waiting':<52} {'first step':>10}  {'first epoch':>18}  {'second epoch':>18}")
        for number, (name, student) in enumerate(STUDENTS.items()):
            store = Path(temporary) / f"store-{number}"
            recipe = replace(recipe_of(Path(temporary), shapes, student), store=str(store))
            epoch = recipe.steps // EPOCHS
            for how in ("fed while it trains", "on what is there"):
                folder = Path(temporary) / f"{number}-{how[:3]}"
                folder.mkdir()
                taken = steps(folder, recipe, address)
                print(f"{name + ', ' + how:<52} {taken[0]['seconds']:8.1f} s  {said(taken[1:epoch])}  {said(taken[epoch:])}", flush=True)


if __name__ == "__main__":
    main()
