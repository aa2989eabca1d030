"""What rows take while a student embeds them and goes back through them: counted on paper, or measured on a device.

Counting runs the real student on torch's meta device, where tensors have a shape and no numbers: every storage that is made and given
back is written down, so that the most that lay there at once is known to the byte, for any size, on any machine, in seconds. Two things
of a GPU are put in their place: its attention (flash: no matrix of tokens x tokens) and, for bf16, what autocast rounds.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mrdist.students.base import StudentConfig

FEW, MANY = (2, 4), (64, 128)
"""How many rows are embedded to draw a line through. There are two lines: with few rows most lies there when all weights are cast, with
many when the groups of points are, and which it is depends on the student."""


class Line(NamedTuple):
    """Bytes at one moment, by rows."""

    fixed: float  # however many rows
    each: float  # per row
    missing: float = 0.0  # bytes of gradients of weights that are not there yet


@dataclass(frozen=True)
class Footprint:
    """Of embedding rows and differentiating them; weights and their gradients are not in it."""

    lines: tuple[Line, ...]  # of all moments: the highest counts
    forward: float  # flop per row
    flops: float  # flop per row, forward and backward; with what `recompute` computes twice
    seconds: float | None  # per row, where it was measured
    how: str  # "counted", or "measured on .."

    def bytes(self, rows: int, coming: float = 0.0) -> float:
        """The most that lies there at once while so many rows are embedded, beside all gradients of weights.

        Args:
            coming: share of the gradients that is not there before backward comes to it, and so leaves room to activations.
        """
        return max(0.0, *(line.fixed + line.each * rows - coming * line.missing for line in self.lines))


@lru_cache(maxsize=64)
def counted(student: StudentConfig, *, width: int, points: int, precision: str) -> Footprint:
    """Of a student that nobody has to build.

    Args:
        width: E, of an embedding.
        points: N, of a cloud.
        precision: fp32 | bf16 | fp64, as an engine says it.
    """
    with torch.device("meta"):
        module = student.build(width, seed=0)
    module.to(torch.float64 if precision == "fp64" else torch.float32)
    bf16, meta = precision == "bf16", torch.device("meta")
    forward, flops = operations(student, width=width, points=points)

    def moments(rows: int) -> list[tuple[int, int]]:
        """The most that lay there before each gradient was whole, and the bytes of gradients that were still to come."""
        casts, missing = _Casts(bf16), sum(p.nbytes for p in module.parameters())
        seen: list[tuple[int, int]] = []

        def whole(parameter: Tensor) -> None:
            nonlocal missing
            seen.append((live.peak, missing))
            live.peak, missing = live.now, missing - parameter.nbytes

        with _as_on_a_gpu(casts), Live(module) as live:
            out = _embedded(module, rows, points, meta)
            casts.forget()
            hooks = [p.register_post_accumulate_grad_hook(whole) for p in module.parameters()]  # type: ignore[no-untyped-call]
            torch.autograd.backward(out)
        for hook in hooks:
            hook.remove()
        return [*seen, (live.peak, missing)]

    lines = [
        Line(*_line(few, many, pair), missing)
        for pair in (FEW, MANY)
        for (few, missing), (many, _) in zip(moments(pair[0]), moments(pair[1]), strict=True)
    ]
    return Footprint(tuple(lines), forward, flops, None, "counted")


@lru_cache(maxsize=64)
def operations(student: StudentConfig, *, width: int, points: int) -> tuple[float, float]:
    """Flop per row, forward and with backward; arguments as of `counted`."""
    meta = torch.device("meta")
    with meta:
        module = student.build(width, seed=0)
    with _as_on_a_gpu(_Casts(False)), FlopCounterMode(display=False) as counter:
        out = _embedded(module, 1, points, meta)
        forward = counter.get_total_flops()
        torch.autograd.backward(out)
        return forward, counter.get_total_flops()


def measured(student: StudentConfig, *, width: int, points: int, precision: str, device: torch.device) -> Footprint:
    """Of a student on this device, from real steps with a few rows: bytes and seconds.

    Raises:
        torch.OutOfMemoryError: too many rows for this device.
    """
    paper = counted(student, width=width, points=points, precision=precision)
    module = student.build(width, seed=0).to(device, torch.float64 if precision == "fp64" else torch.float32)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def step(rows: int) -> None:
        with autocast:
            out = _embedded(module, rows, points, device)
        torch.autograd.backward(out)

    def most(rows: int) -> int:
        step(rows)  # libraries make their workspaces at the first call
        if device.type == "cpu":
            with Live(module) as live:
                step(rows)
            return int(live.peak)
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step(rows)
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)

    # A processor is slow and has few uses for many rows; a GPU is neither filled nor timed by few.
    pairs = (FEW,) if device.type == "cpu" else (FEW, MANY)
    lines = tuple(Line(*_line(most(pair[0]), most(pair[1]), pair)) for pair in pairs)
    rows = pairs[-1][-1]
    begin = time.perf_counter()
    step(rows)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - begin) / rows
    return Footprint(lines, paper.forward, paper.flops, seconds, f"measured on {device.type} with up to {rows} rows")


def _line(few: float, many: float, rows: tuple[int, int]) -> tuple[float, float]:
    """Bytes however many rows, and per row, from those of few and of many rows."""
    each = (many - few) / (rows[1] - rows[0])
    return few - each * rows[0], each


def _embedded(module: nn.Module, rows: int, points: int, device: torch.device) -> Tensor:
    """A number that depends on the embeddings of some clouds; gradients of weights are dropped as soon as they are whole."""
    for p in module.parameters():
        if not p._post_accumulate_grad_hooks:
            p.register_post_accumulate_grad_hook(_forget)  # type: ignore[no-untyped-call]
    xyz = torch.randn(rows, points, 3, device=device)
    keys = torch.arange(rows, device=device)
    embedding: Tensor = module.train()(xyz / 3, xyz.sigmoid(), keys).embedding
    return embedding.float().sum()


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that were made inside and are still there, and the most there ever were; what a module holds is left out."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()
        for tensor in [*module.parameters(), *module.buffers()]:
            self._seen[tensor.untyped_storage()] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._seen:
                storage = tensor.untyped_storage()
                self._seen[storage] = None
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return out

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


class _Casts:
    """Tensors in bfloat16, if that is wanted. Of weights the copies are kept, as autocast does, until the end of forward."""

    def __init__(self, bf16: bool) -> None:
        self.bf16, self._keep = bf16, True
        self._held: dict[int, Tensor] = {}

    def __call__(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None or not self.bf16 or tensor.dtype == torch.bfloat16:
            return tensor
        cast = self._held.get(id(tensor))
        if cast is None:
            cast = tensor.to(torch.bfloat16)
            if self._keep and isinstance(tensor, nn.Parameter):
                self._held[id(tensor)] = cast
        return cast

    def forget(self) -> None:
        """From here on nothing is kept."""
        self._keep, self._held = False, {}


@contextmanager
def _as_on_a_gpu(low: _Casts) -> Iterator[None]:
    """Inside, torch's functions do on the meta device what they do on a GPU.

    They are replaced where modules look them up, not by a mode: modes are off while backward computes activations again.
    """
    real: dict[str, Callable[..., Tensor]] = {name: getattr(F, name) for name in ("linear", "layer_norm", "scaled_dot_product_attention")}

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return real["linear"](low(x), low(weight), low(bias))

    def layer_norm(x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
        return real["layer_norm"](x.float() if low.bf16 else x, shape, weight, bias, eps)

    def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        flash = torch.ops.aten._scaled_dot_product_flash_attention.default
        return flash(*(low(x) for x in (q, k, v)), scale=scale)[0]  # type: ignore[no-any-return]

    try:
        for name, function in (("linear", linear), ("layer_norm", layer_norm), ("scaled_dot_product_attention", attention)):
            setattr(F, name, function)
        yield
    finally:
        for name, function in real.items():
            setattr(F, name, function)
