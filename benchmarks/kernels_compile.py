"""What the Triton kernels need: registers, spills and shared memory, compiled ahead of time; no GPU is used.

    python benchmarks/kernels_compile.py                        the two hot sheets on sm_90
    python benchmarks/kernels_compile.py --width 512 1024 1280
    python benchmarks/kernels_compile.py --all                  every combination, also on sm_80

A sheet is what is compared: `intra` points with points against two teachers; `cross` points with another modality against one teacher,
and in contrast. The last lines are of farthest points, by the size of clouds. Exits with 1 if a kernel spills registers. How fast a
kernel is, only a GPU can say.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from mrdist.relation.kernels import Comparison, Contrast, Cut, Margins, Sums, Want, gradient, sums
from mrdist.relation.kernels.cut import cut
from mrdist.students import picking

ROWS = 256
SHEETS = {"cross": (True, 1), "intra": (False, 2), "contrast": (True, 0), "compare": (False, 1), "all": (True, 2)}
"""name -> (whether in contrast, teachers)"""


class Need(NamedTuple):
    """What a compiled kernel takes."""

    registers: int  # per thread
    stack: int  # bytes per thread: registers that were spilled
    shared: int  # bytes per program


class Absent:
    """A driver for a GPU that is not there: kernels are compiled as ever, and launching them does nothing."""

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.needs: list[Need] = []
        self.utils = SimpleNamespace(load_binary=self.load, get_device_properties=lambda device: {"max_shared_mem": 227 << 10})

    def load(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(binary)
            file.flush()
            told = subprocess.run([knobs.nvidia.cuobjdump.path, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
        registers, stack = (int(re.findall(rf"\b{word}:(\d+)", told)[0]) for word in ("REG", "STACK"))
        self.needs.append(Need(registers, stack, shared))
        return 0, 0, registers, stack, 1024

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps what it has compiled by device.

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        return lambda *arguments: None


def need(capability: int, sheet: str, kernel: str, width: int, *, diagonal: bool, want: Want, dtype: torch.dtype) -> tuple[Cut, Need]:
    """How a sheet is cut, and what its kernel, `sums` or `gradient`, then needs."""
    contrasted, teachers = SHEETS[sheet]
    X, Y, *others = (torch.zeros(ROWS, width, dtype=dtype) for _ in range(6))
    here, numbers = torch.ones(ROWS, dtype=torch.bool), torch.zeros(4, ROWS)
    contrast = Contrast(1.0, here, here, numbers[0], 0.0) if contrasted else None
    columns = [Y if contrasted and teachers == 1 else others[2], others[3]]
    comparisons = tuple(Comparison(others[k], columns[k], 1.0, 1.0, here, here, sheet != "cross") for k in range(teachers))
    backward = kernel == "gradient"
    how = cut(divmod(capability, 10), dtype, contrast=contrasted, teachers=teachers, gradient=backward, more=want.teachers or want.scales)
    driver.set_active(absent := Absent(capability))
    if backward:
        coefficients = Sums(Margins(numbers[:2], numbers[:2]) if contrasted else None, (Margins(numbers, numbers),) * teachers)
        gradient(X, Y, contrast, comparisons, coefficients, diagonal=diagonal, want=want, how=how)
    else:
        sums(X, Y, contrast, comparisons, diagonal=diagonal, how=how)
    return how, absent.needs[0]


def need_to_pick(capability: int, points: int) -> Need:
    """What farthest points of clouds need."""
    driver.set_active(absent := Absent(capability))
    picking.farthest(torch.zeros(2, points, 3), 64, torch.zeros(2, dtype=torch.int64))
    return absent.needs[0]


def main() -> int:
    """Compile, print, and count what spills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, nargs="+", default=[1024], help="inner dimensions")
    parser.add_argument("--all", action="store_true", help="every combination, also on sm_80")
    asked = parser.parse_args()
    spilled = 0
    print("device sheet    kernel             width diagonal  tile (pieces)  depth warps stages | registers spilled shared")
    for capability in (80, 90) if asked.all else (90,):
        for sheet in SHEETS if asked.all else ("cross", "intra"):
            more = [("gradient+", Want(teachers=True, scales=True))] if asked.all and SHEETS[sheet][1] else []
            for kernel, want in [("sums", Want()), ("gradient", Want()), *more]:
                for dtype in (torch.bfloat16, torch.float32) if asked.all else (torch.bfloat16,):
                    for width in asked.width:
                        for diagonal in (False, True):
                            how, taken = need(capability, sheet, kernel.rstrip("+"), width, diagonal=diagonal, want=want, dtype=dtype)
                            name = f"{kernel} {str(dtype).removeprefix('torch.')}"
                            tile = f"{how.rows} x {how.columns} ({how.pieces})"
                            print(
                                f"sm_{capability}  {sheet:8} {name:18} {width:5} {diagonal!s:9} {tile:14} {how.depth:5} {how.warps:5}"
                                f" {how.stages:6} | {taken.registers:9} {taken.stack:7} {taken.shared:6}",
                                flush=True,
                            )
                            spilled += taken.stack > 0
        for points in (1024, 2048, 4096, 8192, 10_000) if asked.all else (1024, 10_000):
            taken = need_to_pick(capability, points)
            print(f"sm_{capability}  farthest points of {points:<53,} | {taken.registers:9} {taken.stack:7} {taken.shared:6}", flush=True)
            spilled += taken.stack > 0
    print(f"{spilled} spill")
    return int(spilled > 0)


if __name__ == "__main__":
    raise SystemExit(main())
