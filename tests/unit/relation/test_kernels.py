"""The Triton kernels against plain float64: in Triton's interpreter, and compiled ahead of time for sm_90.

The interpreter is chosen when a kernel is decorated, so it runs in a process of its own: this file is also the script of that process.
It measures every case and prints {case: {what: error}}; the tests below read it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mrdist.relation.kernels import Comparison, Contrast, Cut, Margins, Sums, Want, available, gradient, sums

ROOT = Path(__file__).parents[3]
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
NEAR = 3e-5
"""Of the largest number of its kind: what float32 keeps of e^144, temperature 0.01."""

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


class Case(NamedTuple):
    """What is compared, and how."""

    m: int = 64
    n: int = 64
    d: int = 32
    contrast: bool = False
    teachers: int = 0
    diagonal: bool = False
    exclude: tuple[bool, bool] = (True, True)  # of each comparison
    tie: float = 1e-6
    shared: bool = False  # the first teacher's columns are the student's
    scales: tuple[float, float, float] = (50.0, 10.0, 20.0)  # α, γ, β
    dtype: torch.dtype = torch.float32
    how: Cut | None = Cut(64, 32, 2, 32, 4, 1, False)
    masked: bool = True


POINTERS, DESCRIPTORS = Cut(32, 32, 2, 32, 4, 1, False), Cut(32, 64, 4, 32, 4, 1, True)
INTRA = Case(teachers=2, diagonal=True)
CROSS = Case(contrast=True, teachers=1, shared=True)
CASES = {
    "intra": INTRA,
    "intra, off the diagonal": INTRA._replace(diagonal=False, n=96),
    "intra, a shape related to itself": INTRA._replace(exclude=(False, False)),
    "intra, ragged": INTRA._replace(m=45, n=45, how=POINTERS),
    "intra, ragged, descriptors": INTRA._replace(m=45, n=45, how=DESCRIPTORS),
    "cross": CROSS,
    "cross, on the diagonal": CROSS._replace(diagonal=True, exclude=(False, False)),
    "cross, everyone here": CROSS._replace(masked=False),
    "cross, ragged": CROSS._replace(m=33, n=71, how=POINTERS),
    "cross, ragged, descriptors": CROSS._replace(m=33, n=71, how=DESCRIPTORS),
    "cross, columns of its own": CROSS._replace(shared=False, how=DESCRIPTORS),
    "cross, an inner dimension that the depth does not divide": CROSS._replace(d=48, how=POINTERS),
    "cross, likewise with descriptors": CROSS._replace(d=48, how=DESCRIPTORS),
    "cross, temperature 0.01": CROSS._replace(scales=(100.0, 100.0, 100.0), diagonal=True, exclude=(False, False)),
    "intra, temperature 0.01": INTRA._replace(scales=(100.0, 100.0, 100.0)),
    "cross, float16": CROSS._replace(dtype=torch.float16, scales=(100.0, 20.0, 100.0)),  # the interpreter multiplies no bfloat16
    "intra, float16": INTRA._replace(dtype=torch.float16),
    "contrast alone": Case(contrast=True, diagonal=True),
    "contrast, in which the own pair would beat itself": Case(contrast=True, diagonal=True, tie=-0.1),
    "one comparison alone": Case(teachers=1, m=40),
    "everything": Case(contrast=True, teachers=2, diagonal=True, m=70, n=70, exclude=(True, False)),
}


def offset(scale: Tensor) -> Tensor:
    return (scale.detach() - 60).clamp(min=0)


def unit(rows: int, case: Case) -> Tensor:
    """Rows about a common direction, as embeddings are: cosines from 0 to 0.8."""
    middle = torch.linspace(-1, 1, case.d, dtype=torch.float64)
    return normalize(torch.randn(rows, case.d, dtype=torch.float64) + middle).to(case.dtype)


def apart(mine: Tensor, true: Tensor) -> float:
    return float((mine - true).abs().max() / true.abs().max())


class Truth:
    """A block in float64: its sums, a loss made of them, and what autograd says; and the coefficients the kernels should take."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(sum(map(ord, repr(case))))
        m, n = case.m, case.n
        self.case = case
        self.X, self.Y = unit(m, case), unit(n, case)
        self.Us, self.Vs = [unit(m, case), unit(m, case)], [self.Y if case.shared else unit(n, case), unit(n, case)]
        self.alpha, gamma, beta = (torch.tensor(scale, dtype=torch.float64) for scale in case.scales)
        self.gammas, self.betas = ([scale.clone().requires_grad_() for _ in range(case.teachers)] for scale in (gamma, beta))
        self.s = (self.X.double() @ self.Y.double().T).requires_grad_()
        self.rs = [(self.Us[k].double() @ self.Vs[k].double().T).requires_grad_() for k in range(case.teachers)]
        self.here = [(torch.rand(m) > 0.3 * case.masked, torch.rand(n) > 0.3 * case.masked) for _ in range(1 + case.teachers)]
        self.other = ~torch.eye(m, n, dtype=torch.bool) if case.diagonal else torch.ones(m, n, dtype=torch.bool)
        own = self.s.diagonal() if case.diagonal else None
        self.own = (torch.rand(m).double() / 2, torch.rand(n).double() / 2) if own is None else (own, own)
        self.loss = torch.zeros((), dtype=torch.float64)
        self.contrast = self._contrast() if case.contrast else None
        self.comparisons = [self._compare(k) for k in range(case.teachers)]
        # Of s, then of each teacher's r, γ and β.
        self.ds, *rest = torch.autograd.grad(self.loss, [self.s, *self.rs, *self.gammas, *self.betas])
        self.drs, self.dgammas, self.dbetas = (rest[k * case.teachers : (k + 1) * case.teachers] for k in range(3))

    def _contrast(self) -> tuple[Margins, Margins]:
        x = self.other * torch.exp(self.alpha * self.s - offset(self.alpha))
        terms = [x, x * self.s]
        sides, coefficients = [], []
        for axis, (own, mine, theirs) in enumerate(zip(self.own, self.here[0], self.here[0][::-1], strict=True)):
            over = (theirs[None] if axis == 0 else theirs[:, None]) & self.other
            neg, moment = ((term * over).sum(1 - axis) for term in terms)
            beaten = ((self.s > own.unsqueeze(1 - axis) + self.case.tie) & over).sum(1 - axis)
            itself = torch.exp(self.alpha * own - offset(self.alpha))
            weight = torch.rand(len(own)) * mine
            self.loss = self.loss + (weight * torch.log1p(neg / itself)).sum()
            sides.append(torch.stack([neg, moment, beaten]).detach())
            coefficients.append((weight * torch.stack([1 / (neg + itself), neg / (neg + itself)])).detach().float())
        return Margins(*sides), Margins(*coefficients)

    def _compare(self, k: int) -> tuple[Margins, Margins]:
        a, b = self.gammas[k] * self.s, self.betas[k] * self.rs[k]
        related = self.other if self.case.exclude[k] else torch.ones_like(self.other)
        e, q = related * torch.exp(a - offset(self.gammas[k])), related * torch.exp(b - offset(self.betas[k]))
        sides, coefficients = [], []
        for axis, (mine, theirs) in enumerate(zip(self.here[1 + k], self.here[1 + k][::-1], strict=True)):
            over = theirs[None] if axis == 0 else theirs[:, None]
            z_a, z_b, u_a, u_b, v = ((term * over).sum(1 - axis) for term in (e, q, e * (a - b), q * (a - b), q * b))
            weight = torch.rand(len(mine)) * mine
            self.loss = self.loss + (weight * (u_a / z_a - u_b / z_b)).sum()
            sides.append(torch.stack([z_a, z_b, u_a, u_b, v]).detach())
            coefficients.append((weight * torch.stack([1 / z_a, u_a / z_a**2, 1 / z_b, u_b / z_b**2])).detach().float())
        return Margins(*sides), Margins(*coefficients)


def measure(case: Case) -> dict[str, float]:
    """Errors of every sum and every gradient."""
    true = Truth(case)
    own = true.own[0].detach().float()
    contrast = Contrast(true.alpha, *true.here[0], own, case.tie) if case.contrast else None
    comparisons = tuple(
        # One scale as a number, the other as a tensor: both are right.
        Comparison(true.Us[k], true.Vs[k], true.gammas[k], float(true.betas[k].detach()), *true.here[1 + k], case.exclude[k])
        for k in range(case.teachers)
    )
    told = sums(true.X, true.Y, contrast, comparisons, diagonal=case.diagonal, how=case.how)
    coefficients = Sums(true.contrast[1] if true.contrast else None, tuple(of[1] for of in true.comparisons))
    want = Want(teachers=True, scales=True, dtype=torch.float32)
    more = gradient(true.X, true.Y, contrast, comparisons, coefficients, diagonal=case.diagonal, want=want, how=case.how)
    plain = gradient(true.X, true.Y, contrast, comparisons, coefficients, diagonal=case.diagonal, how=case.how)

    assert more.scales is not None
    errors = {"gradient": apart(more.student, true.ds)}
    if true.contrast:
        assert told.contrast is not None
        for of, mine, side in zip(("rows", "columns"), told.contrast, true.contrast[0], strict=True):
            errors |= {f"{name} of {of}": apart(mine[at], side[at]) for at, name in enumerate(("neg", "moment"))}
        errors["beaten"] = float((told.contrast.rows[2] - true.contrast[0].rows[2]).abs().max())
    for k, (margins, _) in enumerate(true.comparisons):
        for of, mine, side in zip(("rows", "columns"), told.comparisons[k], margins, strict=True):
            errors |= {f"{name} {k} of {of}": apart(mine[at], side[at]) for at, name in enumerate(("Z_a", "Z_b", "U_a", "U_b", "V"))}
        errors[f"teacher {k}"] = apart(more.teachers[k], true.drs[k])
        # Numbers of both signs are summed: the error is of their size, not of their sum's.
        size = float(true.drs[k].abs().sum()) / case.scales[2]
        errors[f"gamma {k}"] = float((more.scales[k, 0] - true.dgammas[k]).abs()) / size
        errors[f"beta {k}"] = float((more.scales[k, 1] - true.dbetas[k]).abs()) / size
    assert (plain.student.dtype, plain.teachers, plain.scales) == (case.dtype, (), None)
    errors["gradient, rounded"] = apart(plain.student.float(), true.ds) - torch.finfo(case.dtype).eps
    return errors


@pytest.fixture(scope="module")
def errors() -> dict[str, dict[str, float]]:
    """What `measure` says of every case, in a process where Triton interprets."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    measured: dict[str, dict[str, float]] = json.loads(done.stdout)
    return measured


@needs_triton
@pytest.mark.parametrize("case", CASES)
def test_sums_and_gradients_of_a_block_are_those_of_plain_float64(case: str, errors: dict[str, dict[str, float]]) -> None:
    assert {what: error for what, error in errors[case].items() if not error < NEAR} == {}


@pytest.mark.skipif(not available(torch.device("cuda")), reason="no GPU, or none that the kernels run on")
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_agrees_with_plain_float64(case: str) -> None:
    large = CASES[case]._replace(m=300, n=300 if CASES[case].diagonal else 520, d=528, how=None)
    with torch.device("cuda"):
        measured = {f"{what}, {dtype}": of for dtype in DTYPES for what, of in measure(large._replace(dtype=dtype)).items()}
    # Matrix units cut off sums of products a little below float32: 1e-6 of a cosine, times a scale of 100; a tie may fall to either side.
    assert {what: error for what, error in measured.items() if not error <= (1 if "beaten" in what else 1e-3)} == {}


@needs_triton
def test_the_hot_kernels_compile_for_sm_90_without_spilling_a_register(tmp_path: Path) -> None:
    script = [sys.executable, "benchmarks/kernels_compile.py"]
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(script, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("sm_90") == 8 + 2  # and two sizes of clouds, of which the farthest points are picked


def test_importing_the_kernels_does_not_import_triton() -> None:
    ask = "import sys, mrdist.relation.kernels; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", ask], cwd=ROOT, check=False).returncode == 0


def test_there_are_no_kernels_for_a_cpu() -> None:
    assert not available(torch.device("cpu"))


if __name__ == "__main__":
    print(json.dumps({name: measure(case) for name, case in CASES.items()}))
