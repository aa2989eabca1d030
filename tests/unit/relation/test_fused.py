"""Triton's kernels inside the whole: terms, gradients and figures through them are those of float64 torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")

# Triton decides when it is imported whether it interprets: a process of its own.
CHECK = """
import json, sys, torch
from mrdist.relation import kernels
kernels.available = lambda device: True
from mrdist.relation.asked import Relations
from mrdist.relation.terms import Tiling, relation_terms

masked, trained, divergence, hot = json.loads(sys.argv[1])
torch.manual_seed(0)
rows = [torch.randn(40, 32, dtype=torch.float64) for _ in range(3)]
present = [(torch.rand(40) > share) if masked else None for share in (0.3, 0.4)]
held = []
for backend, dtype in (("torch", torch.float64), ("triton", torch.float32)):
    given = [x.to(dtype).requires_grad_(k == 0 or trained) for k, x in enumerate(rows)]
    scales = [torch.tensor(s, dtype=dtype, requires_grad=True) for s in (hot, 12.0, 15.0, 20.0, 25.0)]
    terms = relation_terms(
        *given, scale=scales[0], relations=Relations(divergence=divergence), intra_scale=(scales[1], scales[2]),
        cross_scale=(scales[3], scales[4]), has_image=present[0], has_text=present[1],
        tiling=Tiling(block=32, backend=backend, compile="never"),
    )
    asked = [x for x in (*given, *scales) if x.requires_grad]
    slopes = torch.autograd.grad((torch.linspace(0.3, 1, 6).to(dtype) * terms.values).sum(), asked)
    held.append([terms.values.detach().double(), *(s.double() for s in slopes), torch.stack(list(terms.figures.values())).double()])
print(json.dumps([float((a - b).norm() / a.norm()) for a, b in zip(*held)]))
"""


@pytest.mark.parametrize(
    ("masked", "trained", "divergence", "hot"),
    [(False, False, "jeffrey", 30.0), (True, True, "jeffrey", 100.0), (True, False, "kl", 14.0)],  # kl: torch beside the kernels
)
def test_terms_through_the_kernels_are_those_of_float64(masked: bool, trained: bool, divergence: str, hot: float) -> None:
    words = json.dumps([masked, trained, divergence, hot])
    done = subprocess.run(
        [sys.executable, "-c", CHECK, words],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    assert len(errors) == 1 + (3 if trained else 1) + 5 + 1
    assert max(errors) < 2e-6
