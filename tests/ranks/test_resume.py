"""Four steps are two, a resume, and two."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import signal
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mrdist.errors import RecipeError
from mrdist.kinds import Part
from mrdist.objectives.base import Loss
from mrdist.ranks import Ranks
from mrdist.recipe import Recipe
from mrdist.testing import on_ranks
from mrdist.training.engine import PlainConfig
from mrdist.training.loop import train
from mrdist.training.run import Run
from mrdist.training.watchers import Watcher
from mrdist.training.zero import ZeroConfig
from tests.ranks.test_zero import SMALL, distance, part
from tests.ranks.tiny import WIDTH, TinyLoader, tiny_recipe
from tests.waiting import LATE

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed")

State = dict[str, Tensor]
ENGINES: dict[str, Part] = {
    "plain": PlainConfig(),
    **{f"zero{stage}": ZeroConfig(stage=stage, **SMALL) for stage in range(4)},
    "zero2 offloaded": ZeroConfig(stage=2, offload="cpu", **SMALL),
    "zero3 offloaded, born in shards": ZeroConfig(stage=3, offload="cpu", build_sharded=True, **SMALL),
}


class Until(Watcher):
    """Asks this process to stop at a step, as Slurm would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, run: Run, loss: Loss) -> None:
        if run.step == self.step - 1:
            os.kill(os.getpid(), signal.SIGUSR1)


class Dice(Watcher):
    """Throws torch's dice after every step, to see whether a resume goes on with them."""

    def __init__(self) -> None:
        self.thrown: dict[int, float] = {}

    def after_step(self, run: Run, loss: Loss) -> None:
        self.thrown[run.step] = float(torch.rand(()))


def quiet(engine: str, steps: int) -> Recipe:
    return tiny_recipe(ENGINES[engine], steps=steps, clip=0.5, ema=0.9, log_every=0, pictures_every=0, save_every=0, silence=0.0)


def carried_out(ranks: Ranks, engine: str, folder: Path, steps: int, until: int) -> tuple[State, dict[int, float]]:
    """Train in a folder until a step, and what is left then."""
    dice = Dice()
    run = Run.open(quiet(engine, steps), folder, ranks, TinyLoader(ranks), WIDTH, [Until(until), dice])
    train(run)
    assert run.step == until
    state = {name: tensor.clone() for name, tensor in run.engine.state()}
    run.engine.close()
    return state, dice.thrown


Job = tuple[str, Path, int, int]


def in_turn(ranks: Ranks, jobs: list[Job]) -> list[tuple[State, dict[int, float]]]:
    return [carried_out(ranks, *job) for job in jobs]


def test_four_steps_are_two_a_resume_and_two_bit_for_bit(tmp_path):
    whole = [(name, tmp_path / f"{name}-whole", 4, 4) for name in ENGINES]
    halves = [(name, tmp_path / f"{name}-halves", 4, until) for name in ENGINES for until in (2, 4)]
    for held in on_ranks(2, in_turn, [*whole, *halves]):
        for number, name in enumerate(ENGINES):
            (once, thrown), (_, before), (twice, after) = held[number], *held[len(whole) + 2 * number :][:2]
            assert once.keys() == twice.keys()
            assert all(torch.equal(once[key], twice[key]) for key in once), name
            assert thrown == before | after, f"{name}: the random state was not continued"


def test_six_steps_on_2_then_4_then_1_ranks_and_over_all_engines_are_six_steps(tmp_path):
    chains = {"a": ("zero2 offloaded", "zero3", "plain"), "b": ("zero3", "plain", "zero1"), "c": ("plain", "zero1", "zero3")}
    for number, size in enumerate((2, 4, 1)):
        held = on_ranks(size, in_turn, [(engines[number], tmp_path / name, 6, 2 * number + 2) for name, engines in chains.items()])
    wanted, _ = carried_out(Ranks.alone(), "plain", tmp_path / "alone", 6, 6)
    for chain, (state, _) in zip(chains.values(), held[0], strict=True):
        assert distance(part(state, "weights", "average"), part(wanted, "weights", "average")) < 1e-6, chain
        assert float(state["buffers/student.seen"]) == 6, chain


def test_a_resumed_run_has_each_step_once_in_metrics(tmp_path):
    folder = tmp_path / "run"
    carried_out(Ranks.alone(), "plain", folder, 4, 2)
    with (folder / "metrics.jsonl").open("a") as file:
        # What a process leaves that dies between a step and its checkpoint, in the middle of a line.
        file.write('{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    carried_out(Ranks.alone(), "plain", folder, 4, 4)
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


def asked_in_two_ways(ranks: Ranks, folder: Path) -> list[int]:
    class Ask(Watcher):
        def __init__(self, how: str) -> None:
            self.how = how

        def after_step(self, run: Run, loss: Loss) -> None:
            run._stop._every = 0.0
            if run.step == 3 and self.how == "file" and ranks.first:
                (run.folder / "stop").touch()
            if run.step == 3 and self.how == "signal" and ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    steps = []
    for how in ("file", "signal"):
        run = train(Run.open(quiet("plain", 1000), folder / how, ranks, TinyLoader(ranks), WIDTH, [Ask(how)]))
        steps.append(run.step)
    return steps


def test_a_stop_file_and_a_signal_to_one_rank_end_all_ranks_at_the_same_step(tmp_path):
    assert on_ranks(2, asked_in_two_ways, tmp_path) == [[4, 4], [4, 4]]
    assert (tmp_path / "file" / "latest" / "index.json").is_file()
    run = Run.open(quiet("plain", 1000), tmp_path / "file", Ranks.alone(), TinyLoader(Ranks.alone()), WIDTH)
    assert run.step == 4
    assert not (tmp_path / "file" / "stop").exists(), "a resumed run must not stop at once"
    with run:
        pass


def refused(ranks: Ranks, folder: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        Run.open(replace(quiet("plain", 4), seed=7), folder, ranks, TinyLoader(ranks), WIDTH)
    return str(caught.value)


def test_what_the_first_rank_refuses_every_rank_refuses(tmp_path):
    carried_out(Ranks.alone(), "plain", tmp_path / "run", 4, 4)
    first, second = on_ranks(2, refused, tmp_path / "run")
    assert first == second
    assert "seed (0 before, 7 now)" in first


def killed_while_saving(folder: Path) -> None:
    run = Run.open(quiet("plain", 4), folder, Ranks.alone(), TinyLoader(Ranks.alone()), WIDTH, [Until(2)])
    train(run)
    run.step = 3
    whole = run.engine.state

    def until_killed():
        for number, pair in enumerate(whole()):
            yield pair
            if number == 9:
                os.kill(os.getpid(), signal.SIGKILL)

    run.engine.state = until_killed
    run.save()


def test_a_kill_in_the_middle_of_saving_keeps_the_checkpoint_before_it(tmp_path):
    process = mp.get_context("forkserver").Process(target=killed_while_saving, args=(tmp_path / "run",))
    process.start()
    process.join(LATE)
    assert process.exitcode == -signal.SIGKILL
    steps = tmp_path / "run" / "steps"
    assert sorted(p.name for p in steps.iterdir()) == [".00000003.part", "00000002"]
    killed, _ = carried_out(Ranks.alone(), "plain", tmp_path / "run", 4, 4)
    spared, _ = carried_out(Ranks.alone(), "plain", tmp_path / "spared", 4, 4)
    assert all(torch.equal(killed[name], spared[name]) for name in spared)
    assert sorted(p.name for p in steps.iterdir()) == ["00000002", "00000004"]
