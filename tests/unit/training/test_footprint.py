"""What is counted on paper is what real steps take."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mrdist.students.base import StudentConfig
from mrdist.students.pointbert import PointBERTConfig
from mrdist.students.vit import ViTConfig
from mrdist.training.footprint import FEW, Live, counted, measured

CPU = torch.device("cpu")
VIT = ViTConfig(dim=96, depth=4, heads=3, hidden=192, groups=32, group_size=16, channels=(32, 64, 96, 96), patch_dropout=0.5, drop_path=0.2)
BALLS = PointBERTConfig(dim=64, depth=3, heads=2, hidden=128, groups=32, group_size=16, channels=(16, 32, 64))
STUDENTS: list[StudentConfig] = [VIT, replace(VIT, recompute=True), BALLS]


@pytest.mark.parametrize("student", STUDENTS, ids=["vit", "recomputed", "pointbert"])
@pytest.mark.parametrize("rows", [*FEW, 24])
def test_what_is_counted_is_what_a_real_step_measures(student, rows):
    paper = counted(student, width=32, points=256, precision="fp32")
    real = measured(student, width=32, points=256, precision="fp32", device=CPU)
    assert paper.bytes(rows) == pytest.approx(real.bytes(rows), rel=0.1)
    assert (paper.seconds, real.seconds is not None) == (None, True)


@pytest.mark.parametrize("student", STUDENTS, ids=["vit", "recomputed", "pointbert"])
def test_a_few_rows_foretell_what_the_allocator_gives_for_many(student):
    module = student.build(32, seed=0)
    for p in module.parameters():
        p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    xyz, keys = torch.randn(48, 256, 3) / 3, torch.arange(48)

    def step() -> None:
        torch.autograd.backward(module.train()(xyz, xyz.sigmoid(), keys).embedding.sum())

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    most = int(torch.tensor([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]).cumsum(0).max())
    real = measured(student, width=32, points=256, precision="fp32", device=CPU)
    assert real.bytes(48) == pytest.approx(most, rel=0.1)


def test_autocast_is_counted_as_on_a_gpu_where_norms_stay_in_float32():
    """A CPU's autocast lets norms stay in bfloat16: it takes less. Casts of weights are there once, in full."""
    whole, half = (counted(VIT, width=32, points=256, precision=precision) for precision in ("fp32", "bf16"))
    real = measured(VIT, width=32, points=256, precision="bf16", device=CPU)
    assert 0.5 * whole.bytes(64) < real.bytes(64) < half.bytes(64) < whole.bytes(64)


def test_backward_costs_two_forwards_and_recomputing_one_more():
    once, twice = (counted(student, width=32, points=256, precision="fp32") for student in STUDENTS[:2])
    assert once.flops == pytest.approx(3 * once.forward, rel=0.05)
    assert twice.flops == pytest.approx(4 * twice.forward, rel=0.05)
    assert twice.bytes(64) < once.bytes(64)


@pytest.mark.parametrize("student", STUDENTS, ids=["vit", "recomputed", "pointbert"])
@pytest.mark.parametrize("rows", [2, 24])
def test_gradients_that_come_late_leave_room_as_in_a_real_step(student, rows):
    """A step that keeps the gradients of weights takes what is counted: all of them, less what was still to come at the worst moment."""
    paper = counted(student, width=32, points=256, precision="fp32")
    module = student.build(32, seed=0)
    xyz, keys = torch.randn(rows, 256, 3) / 3, torch.arange(rows)
    with Live(module) as live:
        torch.autograd.backward(module.train()(xyz, xyz.sigmoid(), keys).embedding.sum())
    gradients = sum(p.nbytes for p in module.parameters())
    assert gradients + paper.bytes(rows, coming=1.0) == pytest.approx(live.peak, rel=0.1)
    assert paper.bytes(rows, coming=1.0) < paper.bytes(rows)


def test_counting_leaves_torch_as_it_was():
    before = {name: getattr(torch.nn.functional, name) for name in ("linear", "layer_norm", "scaled_dot_product_attention")}
    counted(VIT, width=33, points=256, precision="bf16")
    assert before == {name: getattr(torch.nn.functional, name) for name in before}
