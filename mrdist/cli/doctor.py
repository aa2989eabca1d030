"""`mrdist doctor`: is this machine able to train? Each finding with its remedy."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from mrdist.cli.main import DONE, YOURS, Flags
from mrdist.errors import CUDA_BUILD, INSTALL, MrdistError
from mrdist.recipe import Recipe, load


class Finding(NamedTuple):
    """One thing looked at."""

    level: Literal["ok", "warn", "fail"]
    what: str
    remedy: str = ""


def doctor(words: Sequence[str], flags: Flags) -> int:
    """Print every finding; exit 1 if one of them prevents training."""
    recipe = load(words[0], words[1:]) if words else None
    findings = list(examine(recipe))
    failures = sum(f.level == "fail" for f in findings)
    if flags.json:
        print(json.dumps([f._asdict() for f in findings], indent=1))
    else:
        for f in findings:
            print(f"{f.level:<5} {f.what}" + (f"\n      Try: {f.remedy}" if f.remedy else ""))
        warnings = sum(f.level == "warn" for f in findings)
        print(f"{failures} failure{'s' * (failures != 1)}, {warnings} warning{'s' * (warnings != 1)}")
    return YOURS if failures else DONE


def examine(recipe: Recipe | None) -> Iterator[Finding]:
    """Every finding on this machine, and on `recipe` if one is given. A check that breaks is a finding too."""
    checks: list[Callable[[], Iterator[Finding]]] = [_python, _torch, _bytecode, _torchvision, _renderer, _zero, _memory, _files]
    if recipe is not None:
        checks.append(lambda: _recipe(recipe))
    for check in checks:
        try:
            yield from check()
        except Exception as wrong:
            yield Finding(
                "fail",
                f"{getattr(check, '__name__', 'recipe').strip('_')}: {type(wrong).__name__}: {wrong}",
                "reinstall: make clean && make .venv/ready",
            )


def _python() -> Iterator[Finding]:
    import mrdist

    yield Finding("ok", f"mrdist {mrdist.__version__} · python {platform.python_version()} · {platform.system()} {platform.machine()}")
    missing = [
        name
        for name in ("numpy", "omegaconf", "safetensors", "PIL", "trimesh", "scipy", "tensorboard", "timm", "open_clip", "fpsample")
        if find_spec(name) is None
    ]
    if missing:
        yield Finding("fail", f"packages missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")


def _torch() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(
            f"{torch.cuda.get_device_name(i)} ({torch.cuda.get_device_properties(i).total_memory >> 30} GiB)"
            for i in range(torch.cuda.device_count())
        )
        yield Finding("ok", f"torch {torch.__version__} · {names}")
    elif shutil.which("nvidia-smi"):
        yield _unseen(torch.__version__, built=torch.version.cuda)
    else:
        yield Finding("ok", f"torch {torch.__version__} · no GPU: smoke and furniture run on the CPU, larger students want a GPU")
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        yield Finding("warn", "torch has no gloo: no run on several processes", "install an ordinary build of torch")


def _unseen(version: str, built: str | None) -> Finding:
    """Why torch sees no GPU on a machine of NVIDIA's.

    Args:
        built: the version of CUDA that torch was built for; None: it was built for CPUs.
    """
    if built is None:
        return Finding("fail", f"torch {version} is a build for CPUs", CUDA_BUILD)
    granted = os.environ.get("CUDA_VISIBLE_DEVICES")
    said = "CUDA_VISIBLE_DEVICES is not set" if granted is None else f"CUDA_VISIBLE_DEVICES={granted!r}"
    return Finding(
        "fail",
        f"torch {version} sees no GPU ({said})",
        "no GPU was given to this shell: srun --gpus 1 --pty mrdist doctor; if nvidia-smi shows one here, update the driver",
    )


def _bytecode() -> Iterator[Finding]:
    import torch

    source = Path(torch.__file__)
    if not Path(cache_from_source(str(source))).is_file():  # nor could importing it write any
        yield Finding(
            "warn",
            "torch has no bytecode: every rank and worker compiles all that it imports anew, and starts seconds later",
            shlex.join([sys.executable, "-m", "compileall", "-q", "-j", "0", str(source.parents[1])]),
        )


def _torchvision() -> Iterator[Finding]:
    from mrdist.torchvision_cpu import ensure_torchvision

    state = ensure_torchvision()
    if state == "absent":
        yield Finding("fail", "torchvision is missing: open_clip and timm need it", "pip install torchvision")
    elif state == "shimmed":
        yield Finding("ok", "torchvision is a CUDA build beside a CPU torch; mrdist works around it")


def _renderer() -> Iterator[Finding]:
    if find_spec("warp") is None:
        yield Finding("fail", "the renderer needs NVIDIA Warp", "pip install warp-lang")
        return
    cache = Path(os.environ.get("WARP_CACHE_PATH", Path.home() / ".cache" / "warp"))
    above = next(p for p in [cache, *cache.parents] if p.exists())
    if not os.access(above, os.W_OK):
        yield Finding(
            "fail", f"the renderer cannot write its compiled kernels to {cache}", "set WARP_CACHE_PATH to a folder you may write to"
        )
    else:
        yield Finding("ok", f"renderer: warp {version('warp-lang')}")


def _zero() -> Iterator[Finding]:
    try:
        found = version("deepspeed")
    except PackageNotFoundError:
        yield Finding("warn", "deepspeed is not installed: engine=plain only", INSTALL)
        return
    if found == "0.19.8":
        yield Finding("warn", "deepspeed 0.19.8 refuses parameters of no dimension", "pip install deepspeed==0.19.7")
    else:
        yield Finding("ok", f"deepspeed {found}")


def _memory() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding(
        "ok" if memory >= 4 else "warn", f"{cores} cores · {memory:.0f} GiB memory", "" if memory >= 4 else "set limits.memory_mb lower"
    )
    shm = Path("/dev/shm")
    if shm.is_dir():
        free = shutil.disk_usage(shm).free / 2**20
        if free < 256:
            yield Finding(
                "warn",
                f"/dev/shm has {free:.0f} MiB free: loaders stall above 2 workers",
                "start the container with --shm-size=16g, or workers=0",
            )


def _files() -> Iterator[Finding]:
    import resource

    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding("ok" if free > 5 else "warn", f"{free:.0f} GiB free here", "" if free > 5 else "choose other folders: runs=... store=...")
    if not os.access(Path.cwd(), os.W_OK):
        yield Finding("fail", f"{Path.cwd()} cannot be written to", "choose other folders: runs=... store=...")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 < soft < 1024:
        yield Finding("warn", f"only {soft} open files allowed", "ulimit -n 4096")


def _recipe(recipe: Recipe) -> Iterator[Finding]:
    from mrdist.cli.contradictions import contradictions
    from mrdist.cli.lacking import lacking

    if recipe.engine.kind == "zero" and find_spec("deepspeed") is None:
        yield Finding("fail", f"recipe {recipe.name} wants engine zero, and deepspeed is not installed", f"{INSTALL}, or engine=plain")
    problems = [*contradictions(recipe), *lacking(recipe)]
    yield from (_told("fail", problem) for problem in problems)
    if not problems:
        yield Finding("ok", f"recipe {recipe.name}: nothing contradicts, and all that it names is here")
    with suppress(MrdistError):  # told already
        absent = getattr(recipe.teacher, "absent", lambda: None)()
        if absent is not None:
            yield _told("warn" if _online() else "fail", absent)


def _told(level: Literal["warn", "fail"], problem: MrdistError) -> Finding:
    return Finding(level, f"{problem.what}: got {problem.got}, wanted {problem.wanted}", problem.try_)


def _online() -> bool:
    """Whether a teacher can be downloaded here; answers within seconds."""
    from mrdist.teachers.library import reach

    try:
        reach()
    except OSError:
        return False
    return True
