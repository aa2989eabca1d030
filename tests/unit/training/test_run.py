"""A run and its folder, in one process."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mrdist.errors import CheckpointError, MrdistError, RecipeError
from mrdist.objectives.base import Loss
from mrdist.progress import duration
from mrdist.ranks import Ranks
from mrdist.recipe import Recipe
from mrdist.shapes import Points
from mrdist.training.checkpoint import INDEX, Stored, complete
from mrdist.training.folder import differences
from mrdist.training.loop import train
from mrdist.training.records import FirstLook, Look
from mrdist.training.run import Run
from mrdist.training.watchdog import Watchdog
from mrdist.training.watchers import Console, Evaluator, Watcher
from tests.ranks.tiny import WIDTH, TinyConfig, TinyLoader, tiny_recipe
from tests.waiting import until

QUIET = {"log_every": 0, "pictures_every": 0, "save_every": 0, "silence": 0.0}


def opened(folder: Path, recipe: Recipe, *watchers: Watcher) -> Run:
    ranks = Ranks.alone()
    return Run.open(recipe, folder, ranks, TinyLoader(ranks), WIDTH, watchers)


def carried_out(folder: Path, recipe: Recipe, *watchers: Watcher) -> Run:
    return train(opened(folder, recipe, *watchers))


def steps_of(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_folder_explains_itself(tmp_path):
    run = carried_out(tmp_path / "run", tiny_recipe(steps=3, **QUIET))
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {"recipe.yaml", "command.txt", "code.txt", "metrics.jsonl", "board", "steps", "latest", "ranks"}
    assert (tmp_path / "run" / "latest").resolve().name == "00000003"
    assert "mrdist 0" in (tmp_path / "run" / "code.txt").read_text()
    assert "saved" in (tmp_path / "run" / "ranks" / "0000.log").read_text()
    assert json.loads((tmp_path / "run" / "ranks" / "0000.stamp").read_text())["place"] == "over"
    assert run.finished
    assert not run.asked_to_stop
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["terms"].keys() == {"contrast", "distance"}
    assert line["seconds"] == pytest.approx(line["wait"] + line["compute"] + line["talk"], abs=1e-5)


def test_another_recipe_in_the_same_folder_is_refused_by_key(tmp_path):
    recipe = tiny_recipe(steps=2, **QUIET)
    carried_out(tmp_path / "run", recipe)
    other = replace(recipe, batch=4, objective=TinyConfig(weight=2.0))
    with pytest.raises(RecipeError, match=r"batch \(8 before, 4 now\), objective.weight \(1.0 before, 2.0 now\)"):
        opened(tmp_path / "run", other)
    longer = replace(recipe, steps=4, workers=7, watch=replace(recipe.watch, log_every=3))
    assert carried_out(tmp_path / "run", longer).step == 4


def test_differences_name_keys_that_only_one_side_has():
    assert differences({"a": {"b": 1}}, {"a": {"c": 1}}) == ["a.b (1 before, None now)", "a.c (None before, 1 now)"]
    assert differences({"steps": 1, "engine": {"kind": "plain"}}, {"steps": 2, "engine": {"kind": "zero"}}) == []


def test_a_folder_with_other_things_in_it_is_not_a_run_folder(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RecipeError, match="other things"):
        opened(tmp_path, tiny_recipe(**QUIET))


def test_the_newest_whole_checkpoint_is_taken_and_the_damaged_one_is_named(tmp_path, caplog):
    recipe = tiny_recipe(steps=6, **QUIET | {"save_every": 2})
    folder = tmp_path / "run"
    carried_out(folder, replace(recipe, steps=4))
    file = folder / "steps" / "00000004" / "rank-0000.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        run = carried_out(folder, recipe)
    assert run.begun == 2
    assert "00000004" in caplog.text
    assert steps_of(folder) == [1, 2, 3, 4, 5, 6]


def test_a_damaged_checkpoint_of_the_same_step_is_written_anew(tmp_path):
    recipe = tiny_recipe(steps=4, **QUIET | {"save_every": 2})
    folder = tmp_path / "run"
    carried_out(folder, recipe)
    file = folder / "steps" / "00000004" / "rank-0000.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    carried_out(folder, recipe)
    Stored(folder / "steps" / "00000004")
    assert opened(folder, recipe).step == 4


def test_a_run_that_died_before_its_first_checkpoint_begins_anew(tmp_path, caplog):
    recipe = tiny_recipe(steps=3, **QUIET)
    folder = tmp_path / "run"
    opened(folder, recipe).__exit__(None, None, None)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 1.0}\n')
    carried_out(folder, recipe)
    assert "steps 1 to 2 were taken" in caplog.text
    assert steps_of(folder) == [1, 2, 3]


def test_a_checkpoint_that_is_gone_is_an_error_and_no_new_beginning(tmp_path):
    recipe = tiny_recipe(steps=2, **QUIET)
    folder = tmp_path / "run"
    opened(folder, recipe).__exit__(None, None, None)
    assert opened(folder, recipe).step == 0, "nothing was done yet: nothing is lost"
    carried_out(folder, recipe)
    (folder / "steps" / "00000002" / INDEX).unlink()
    with pytest.raises(CheckpointError, match="2 steps taken, and a checkpoint that is gone"):
        opened(folder, recipe)


def test_a_checkpoint_of_another_recipe_is_refused_even_in_the_right_folder(tmp_path):
    recipe = tiny_recipe(steps=2, **QUIET)
    carried_out(tmp_path / "a", recipe)
    carried_out(tmp_path / "b", replace(recipe, seed=1))
    index = tmp_path / "b" / "steps" / "00000002" / INDEX
    index.write_text(
        json.dumps({**json.loads(index.read_text()), "recipe": json.loads((tmp_path / "a/steps/00000002" / INDEX).read_text())["recipe"]})
    )
    with pytest.raises(CheckpointError, match="seed"):
        opened(tmp_path / "b", replace(recipe, seed=1))


def test_the_newest_and_the_best_are_kept(tmp_path):
    figures = {1: 0.1, 2: 0.9, 3: 0.2, 4: 0.3, 5: 0.4, 6: 0.5}
    folder = tmp_path / "run"
    evaluator = Evaluator(1, lambda run: {"top1": figures[run.step]}, best="top1")
    carried_out(folder, tiny_recipe(steps=6, **QUIET | {"save_every": 1, "keep": 2}), evaluator)
    assert [p.name for p in complete(folder / "steps")] == ["00000006", "00000005", "00000002"]
    assert (folder / "best").resolve().name == "00000002"
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
    assert line["measured"] == {"top1": 0.9}
    assert opened(folder, tiny_recipe(steps=6, **QUIET | {"save_every": 1, "keep": 2})).best == (0.9, 2)


def test_numbers_that_are_no_numbers_end_the_run_before_they_are_saved(tmp_path):
    folder = tmp_path / "run"
    run = opened(folder, tiny_recipe(steps=4, **QUIET | {"save_every": 1}))
    inner = run.loader.loader

    class Poisoned:
        def batches(self, after):
            for step, batch in enumerate(inner.batches(after)):
                if step == 2:
                    batch.rgb[3, 0, 0] = float("nan")
                yield batch

    run.loader.loader = Poisoned()
    with pytest.raises(MrdistError, match=r"step 3.*contrast = nan.*from rank 0.*shape-3"):
        train(run)
    assert [p.name for p in complete(folder / "steps")] == ["00000002", "00000001"]
    why = (folder / "why.txt").read_text()
    assert "rank 0 of 1, step 3" in why
    assert "shape-3" in why
    assert "try: look at these shapes" in why
    assert carried_out(folder, tiny_recipe(steps=4, **QUIET | {"save_every": 1})).finished
    assert not (folder / "why.txt").exists()
    assert (folder / "why-before.txt").exists()


def test_ctrl_c_finishes_the_step_and_saves(tmp_path):
    class CtrlC(Watcher):
        def after_step(self, run: Run, loss: Loss) -> None:
            if run.step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    run = carried_out(tmp_path / "run", tiny_recipe(steps=9, **QUIET), CtrlC())
    assert run.asked_to_stop
    assert [p.name for p in complete(tmp_path / "run" / "steps")] == ["00000003"]
    assert signal.getsignal(signal.SIGINT) is before


def test_the_console_has_plain_lines_in_a_file_and_a_live_one_on_a_terminal(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream in (io.StringIO(), Terminal()):
        run = opened(tmp_path / type(stream).__name__, tiny_recipe(steps=5, **QUIET))
        run.watchers = [*run.watchers, Console(2, stream)]
        train(run)
        text = stream.getvalue()
        lines = [line for line in text.splitlines() if line.startswith(("step", "\r\x1b[Kstep"))]
        assert ("\r" in text) == isinstance(stream, Terminal)
        if not isinstance(stream, Terminal):
            assert [line[:8] for line in lines] == ["step 2/5", "step 4/5", "step 5/5"]
            assert "contrast" in lines[0]
            assert "shapes/s" in lines[0]
            assert re.search(r"left \d+:\d\d", lines[0])


def test_time_left_is_readable():
    assert [duration(s) for s in (0.4, 41, 3723, 100_000)] == ["0:00", "0:41", "1:02:03", "1 d 3 h"]


def test_the_board_has_losses_speeds_relations_views_and_clouds(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    random = np.random.default_rng(0)
    cloud = Points.of(random.normal(size=(9, 3)), up="z")
    look = FirstLook(lambda: Look({"chair": random.integers(0, 255, (8, 8, 3), dtype=np.uint8)}, {"chair": cloud}))
    recipe = tiny_recipe(steps=4, **QUIET | {"log_every": 2, "pictures_every": 4})
    carried_out(folder, replace(recipe, steps=2), look)
    carried_out(folder, recipe, Evaluator(0, lambda run: {"top1": 0.5}))
    events = EventAccumulator(str(folder / "board"), size_guidance={"tensors": 0, "images": 0}).Reload()
    assert {"loss/total", "loss/contrast", "figures/sharpness", "speed/wait", "speed/compute", "speed/talk"} <= set(
        events.Tags()["scalars"]
    )
    assert [e.step for e in events.Scalars("loss/total")] == [2, 4]
    assert [e.step for e in events.Scalars("measured/top1")] == [4]
    assert {"relation/student", "views/chair"} <= set(events.Tags()["images"])
    assert [e.step for e in events.Images("relation/student")] == [1, 4]
    assert any("clouds/chair" in tag for tag in events.Tags()["tensors"])
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert events.Scalars("loss/total")[0].value == pytest.approx(sum(losses[:2]) / 2)


def test_pictures_do_not_change_the_training(tmp_path):
    held = [carried_out(tmp_path / str(n), tiny_recipe(steps=3, **QUIET | {"pictures_every": n})).export() for n in (0, 1)]
    assert all(torch.equal(held[0][name], held[1][name]) for name in held[0])


def test_the_student_a_run_gives_is_plain_and_averaged(tmp_path):
    run = carried_out(tmp_path / "run", tiny_recipe(steps=4, ema=0.9, **QUIET))
    student, state = run.student(), run.export()
    assert all(torch.equal(student.state_dict()[name], tensor) for name, tensor in state.items())
    assert not torch.equal(student.head.weight, run.engine.objective.student.head.weight)
    assert not student.training
    stored = Stored(tmp_path / "run" / "latest").student()
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in state.items())


def test_silence_is_answered_with_stacks(tmp_path):
    run = opened(tmp_path / "run", tiny_recipe(**QUIET))
    there, enough = threading.Event(), threading.Event()
    stamp, seen = tmp_path / "run" / "ranks" / "0000.stamp", set[str]()

    def hang_in_the_loader() -> None:
        with run.ranks.clock.at("wait"):
            there.set()
            enough.wait()

    def reports() -> int:
        return sum(len(re.findall(r"^silent for \d", file.read_text(), re.MULTILINE)) for file in (tmp_path / "run").glob("*.txt"))

    def stamps() -> int:
        if stamp.is_file():
            seen.add(stamp.read_text())
        return len(seen)

    thread = threading.Thread(target=hang_in_the_loader, name="main job")
    thread.start()
    try:
        there.wait()
        dog = Watchdog(run, silence=0.2, every=0.05)
        until(reports, "the first report")
        seen.clear()
        until(lambda: stamps() > 3, "more rounds of the dog")
        assert reports() == 1, "one silence, one report"
        dog.close()
    finally:
        enough.set()
        thread.join()
    with run:
        pass
    why = (tmp_path / "run" / "silences.txt").read_text()
    assert "in wait" in why
    assert "hang_in_the_loader" in why


class LosesItsDisk(Watcher):
    """At the end no stamp can be written any more, and, if it is `all` of the disk, no checkpoint."""

    def __init__(self, *, all: bool) -> None:
        self._all = all

    def at_end(self, run: Run) -> None:
        shutil.rmtree(run.folder / "ranks")
        if self._all:
            shutil.rmtree(run.folder / "steps")
            (run.folder / "steps").touch()


class Closed(Watcher):
    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_finished_run_whose_last_stamp_cannot_be_written_is_finished(tmp_path, caplog):
    assert carried_out(tmp_path / "run", tiny_recipe(steps=2, **QUIET), LosesItsDisk(all=False)).finished
    assert "while the run was closed" in caplog.text
    Stored(tmp_path / "run" / "latest")


def test_what_went_wrong_is_not_hidden_by_what_goes_wrong_while_it_is_closed(tmp_path):
    before, witness = signal.getsignal(signal.SIGINT), Closed()
    with pytest.raises(CheckpointError, match=r"rank 0: .*steps.*Try: free some space"):
        carried_out(tmp_path / "run", tiny_recipe(steps=2, **QUIET), LosesItsDisk(all=True), witness)
    assert witness.closed
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_that_goes_on_leaves_its_recipe_as_it_is(tmp_path):
    recipe = tiny_recipe(steps=2, **QUIET)
    times = []
    for _ in range(2):
        carried_out(tmp_path / "run", recipe)
        times.append((tmp_path / "run" / "recipe.yaml").stat().st_mtime_ns)
    assert times[0] == times[1]


def test_a_batch_that_does_not_fit_the_ranks_is_refused_with_the_nearest_that_does(tmp_path):
    with pytest.raises(RecipeError, match="batch=9"):
        Run.open(tiny_recipe(), tmp_path / "run", Ranks(0, 3), TinyLoader(Ranks.alone()), WIDTH)
