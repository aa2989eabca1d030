"""The command line as a user types it: from meshes to figures, on from a stop, and out to others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.waiting import LATE, until

RECIPE = """
base: smoke
name: mini
steps: 6
batch: 16
points: 256
sample: 128
views: {ring: front4, pixels: 32}
data: {preset: synthetic, train: 2, val: 1, test: 1, unseen: 1}
teacher: {preset: fitted, pixels: 32, steps: 4, batch: 8, text_width: 32, channels: 8, width: 32}
student: {preset: micro, dim: 48, depth: 1, heads: 3, groups: 8, group_size: 8}
optim: {warmup: 1}
watch: {log_every: 2, save_every: 2, evaluate_every: 3, pictures_every: 6}
"""


def mrdist(place: Path, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-m", "mrdist", *words], cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the main job has run, with everything small."""
    place = tmp_path_factory.mktemp("lab")
    (place / "mini.yaml").write_text(RECIPE)
    done = mrdist(place, "train", "mini.yaml")
    assert "Zero-shot classification" in done.stdout
    assert "text → points" in done.stdout
    return place


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    (folder,) = (place / "runs").iterdir()
    return folder


def test_the_run_folder_explains_itself(run: Path) -> None:
    names = ("recipe.yaml", "command.txt", "code.txt", "metrics.jsonl", "board", "latest", "best", "report.json", "report.md", "export")
    assert not [name for name in (*names, "done") if not (run / name).exists()]
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert not (run / "why.txt").exists()


def test_training_a_finished_run_trains_nothing(place: Path, run: Path) -> None:
    before = (run / "metrics.jsonl").read_text()
    mrdist(place, "train", str(run))
    assert (run / "metrics.jsonl").read_text() == before


def test_a_run_goes_on_with_more_steps_than_it_had(place: Path, run: Path) -> None:
    mrdist(place, "resume", str(run), "steps=8")
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_run_refuses_another_recipe_and_names_the_key(place: Path, run: Path) -> None:
    done = mrdist(place, "train", str(run), "batch=8", expect=1)
    assert "batch" in done.stderr


def test_a_stop_file_ends_a_run_that_goes_on_later(place: Path) -> None:
    words = [sys.executable, "-m", "mrdist", "train", "mini.yaml", "name=stopped", "runs=stops", "steps=100000", "watch.evaluate_every=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: list((place / "stops").glob("*/metrics.jsonl")), "a step")
            (folder,) = (place / "stops").iterdir()
            (folder / "stop").touch()
            assert process.wait(timeout=LATE) == 75
        finally:
            process.kill()
    taken = len((folder / "metrics.jsonl").read_text().splitlines())
    assert 0 < taken < 100000
    assert not (folder / "done").exists()
    mrdist(place, "train", str(folder), f"steps={taken + 2}")
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, taken + 3))


def test_evaluation_says_the_same_again(place: Path, run: Path) -> None:
    first = json.loads(mrdist(place, "evaluate", str(run), "test", "--json").stdout)
    assert first == json.loads(mrdist(place, "evaluate", str(run), "test", "--json").stdout)
    assert first["test/chance"] == pytest.approx(1 / 29)
    assert "test/top1" in mrdist(place, "compare", str(run), str(run)).stdout.replace(" ", "")


def test_a_run_is_evaluated_on_another_catalogue_through_its_own_teacher(place: Path, run: Path) -> None:
    rows = []
    (place / "mine").mkdir()
    for number, mesh in enumerate(sorted((place / "store").glob("synthetic-*/**/*.glb"))[:4]):
        (place / "mine" / f"{number}.glb").write_bytes(mesh.read_bytes())
        rows.append({"mesh": f"{number}.glb", "captions": ["a thing"], "category": "airplane" if number % 2 else "chair", "split": "test"})
    (place / "mine" / "catalog.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = (run / "report.json").read_text()
    found = json.loads(mrdist(place, "evaluate", str(run), "test", "data=folder", f"data.path={place / 'mine'}", "--json").stdout)
    assert found["test/chance"] == 0.5
    assert (run / "report.json").read_text() == before
    (elsewhere,) = (run / "elsewhere").glob("*/report.json")
    # What was exported has no recipe, and is measured the same way.
    words = ("data=folder", f"data.path={place / 'mine'}", "views.pixels=32", "views.ring=front4")
    assert json.loads(mrdist(place, "evaluate", str(run / "export"), "test", *words, "--json").stdout)["test/chance"] == 0.5
    (alone,) = (place / "evaluations").glob("*/report.json")
    for path in (elsewhere, alone):
        assert json.loads(path.read_text())["contract"]["teacher"] == json.loads(before)["contract"]["teacher"]


def test_what_was_exported_embeds_a_mesh_and_reads_texts(place: Path, run: Path) -> None:
    from mrdist import Points, from_pretrained

    meshes = sorted((place / "store").glob("synthetic-*/**/*.glb"))[:3]
    target = place / "encoder"
    mrdist(place, "export", str(run), str(target))
    done = mrdist(place, "embed", str(target), *map(str, meshes), str(place / "nothing.glb"), "up=y", "out=rows.safetensors")
    assert "skipped" in done.stdout
    rows = load_file(place / "rows.safetensors")["embeddings"]
    assert rows.shape == (3, 32)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert "| top-1, test of synthetic data of mini |" in (target / "README.md").read_text()
    encoder = from_pretrained(target)
    cloud = Points.from_file(meshes[0], up="y", points=encoder.contract.points)
    assert np.allclose(encoder.encode(cloud).numpy(), rows[:1], atol=1e-5)
    assert encoder.similarity(cloud, ["a chair", "a lamp"]).shape == (1, 2)


def test_a_folder_with_the_name_of_a_recipe_is_not_taken_for_a_run(tmp_path: Path) -> None:
    from mrdist.cli.evaluate import is_run

    (tmp_path / "smoke").mkdir()
    assert not is_run(str(tmp_path / "smoke"))
    assert "name: smoke" in mrdist(tmp_path, "train", "smoke", "--dry-run").stdout


def test_a_dry_run_writes_nothing(place: Path, run: Path) -> None:
    before = sorted(str(p) for p in place.rglob("*"))
    for words in (["evaluate", str(run)], ["export", str(run), "dry"], ["embed", str(run), "a.glb", "up=y"]):
        assert "would" in mrdist(place, *words, "--dry-run").stdout
    assert sorted(str(p) for p in place.rglob("*")) == before


def test_a_sample_sheet_is_drawn(place: Path) -> None:
    mrdist(place, "data", "sample", "mini.yaml")
    assert (place / "sample-mini.png").stat().st_size > 1000


def test_embedding_without_an_axis_is_refused(place: Path, run: Path) -> None:
    assert "up=" in mrdist(place, "embed", str(run), "a.glb", expect=1).stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["trian", "smoke"], 1, "mrdist train"),
        (["train", "smok"], 1, "Try: smoke"),
        (["train", "smoke", "optim.lrr=1"], 1, "optim.lr"),
        (["train"], 1, "mrdist train smoke"),
        (["train", "smoke", "device=gpu"], 1, "device=auto"),
        (["resume", "smoke"], 1, "a run folder"),
        (["sumbit", "smoke"], 1, "mrdist submit"),
        (["xyzzy"], 1, "mrdist --help"),
        (["evaluate", "nowhere"], 1, "a run folder"),
        (["config", "show", "smoke"], 0, "objective:"),
        (["config", "explain", "optim.lr"], 0, "lr: float"),
        (["config", "explain", "objective"], 0, "presets"),
        (["config", "explain", "optim.rate"], 1, "Try:"),
        (["config", "diff", "smoke", "smoke", "batch=64"], 0, "batch: 128 -> 64"),
        (["doctor"], 0, "0 failures"),
        (["doctor", "smoke"], 0, "nothing contradicts"),
        (["doctor", "smoke", "optim.warmup=700"], 1, "optim.warmup"),
        (["--version"], 0, "0."),
        (["--help"], 0, "verbs"),
    ],
)
def test_every_word_is_answered(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    done = mrdist(tmp_path, *words, expect=code)
    assert said in done.stdout + done.stderr


def test_fitting_a_teacher_again_fits_nothing(place: Path) -> None:
    before = sorted((place / "store" / "teachers").iterdir())
    assert "teachers" in mrdist(place, "teacher", "fit", "mini.yaml").stdout
    assert sorted((place / "store" / "teachers").iterdir()) == before
    assert "teacher=fitted" in mrdist(place, "teacher", "fit", "mini.yaml", "teacher=openclip-vit-b-32", expect=1).stderr


def test_two_ranks_train_what_one_rank_trains(place: Path) -> None:
    pytest.importorskip("deepspeed")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mrdist"]
    words = ["train", "mini.yaml", "name=two", "runs=twos", "engine=zero2", "watch.evaluate_every=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run([*launch, *words], cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    mrdist(place, "train", "mini.yaml", "name=one", "runs=ones", "watch.evaluate_every=0")

    def losses(runs: str) -> list[float]:
        (metrics,) = (place / runs).glob("*/metrics.jsonl")
        return [json.loads(line)["loss"] for line in metrics.read_text().splitlines()]

    assert losses("twos") == pytest.approx(losses("ones"), rel=1e-4)
