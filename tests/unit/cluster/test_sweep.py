"""Lists of values make runs."""

from __future__ import annotations

from mrdist_cluster.sweep import runs


def test_words_without_lists_are_one_run() -> None:
    assert runs([]) == [[]]
    assert runs(["steps=10", "student=small"]) == [["steps=10", "student=small"]]


def test_lists_are_multiplied_in_the_order_they_are_written() -> None:
    assert runs(["seed=0,1", "steps=10", "optim.lr=1e-3,3e-3"]) == [
        ["seed=0", "steps=10", "optim.lr=1e-3"],
        ["seed=0", "steps=10", "optim.lr=3e-3"],
        ["seed=1", "steps=10", "optim.lr=1e-3"],
        ["seed=1", "steps=10", "optim.lr=3e-3"],
    ]


def test_a_comma_in_brackets_belongs_to_the_value() -> None:
    assert runs(["optim.betas=[0.9,0.98]"]) == [["optim.betas=[0.9,0.98]"]]
    assert runs(["optim.betas=[0.9,0.98],[0.9,0.95]"]) == [["optim.betas=[0.9,0.98]"], ["optim.betas=[0.9,0.95]"]]
    assert runs(["student={kind: vit, dim: 8}"]) == [["student={kind: vit, dim: 8}"]]
