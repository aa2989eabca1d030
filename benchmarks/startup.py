"""What the first word costs: `import mrdist` beside `import torch`, and `mrdist --help`. Medians of fresh processes.

usage: python benchmarks/startup.py [repeats]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def seconds(*words: str, repeats: int) -> float:
    held = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        held.append(time.perf_counter() - began)
    return statistics.median(held)


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds("-c", "import torch, mrdist", repeats=1)  # warm the page cache
    torch = seconds("-c", "import torch", repeats=repeats)
    both = seconds("-c", "import torch, mrdist; mrdist.Encoder, mrdist.Points, mrdist.Recipe", repeats=repeats)
    helped = seconds("-m", "mrdist", "--help", repeats=repeats)
    print("| what | seconds | wanted |\n|---|--:|--:|")
    print(f"| import torch | {torch:.2f} | |")
    print(f"| import mrdist, and all it exports, on top | {both - torch:.2f} | <= 0.3 |")
    print(f"| mrdist --help | {helped:.2f} | <= 0.5 |")


if __name__ == "__main__":
    main()
