"""The door to open_clip: how it is imported, what it knows, and how its weights come."""

from __future__ import annotations

import difflib
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from mrdist.errors import TeacherError
from mrdist.torchvision_cpu import ensure_torchvision


def open_clip() -> Any:
    """The library, imported.

    Raises:
        TeacherError: it is not installed.
    """
    ensure_torchvision()
    try:
        import open_clip as library
    except ModuleNotFoundError as missing:
        got, try_ = f"no module {missing.name}", "pip install open_clip_torch"
        raise TeacherError(what="open_clip", got=got, wanted="open_clip_torch and what it needs", try_=try_) from None
    return library


def known(value: str, among: Iterable[str], *, what: str, besides: str = "") -> str:
    """`value`, if it is one of the names.

    Raises:
        TeacherError: it is not; the message carries the nearest ones.
    """
    names = list(among)
    if value in names:
        return value
    near = difflib.get_close_matches(value, names, n=3, cutoff=0.3)
    wanted = (", ".join(names) if len(names) < 12 else f"one of the {len(names)} that open_clip lists") + besides
    raise TeacherError(what=what, got=repr(value), wanted=wanted, try_=" or ".join(near) or "see open_clip.list_pretrained()")


def created(name: str, what: str, precision: str, **build: Any) -> tuple[Any, Any]:
    """A model with its weights, on the CPU, and its tokenizer; `build` goes to `open_clip.create_model`.

    Raises:
        TeacherError: the files do not fit, or this model needs a package that is not there.
    """
    library = open_clip()
    try:
        return library.create_model(name, precision=precision, device="cpu", **build), library.get_tokenizer(name)
    except ModuleNotFoundError as missing:
        wanted, try_ = "a package that this model needs", f"pip install {missing.name}"
        raise TeacherError(what=what, got=first_line(missing), wanted=wanted, try_=try_) from None
    except Exception as wrong:  # whatever a foreign file makes the library say
        wanted, try_ = "weights that fit the model, tensors only", "check teacher.model and teacher.weights; prefer .safetensors"
        raise TeacherError(what=what, got=first_line(wrong), wanted=wanted, try_=try_) from None


def weights_file(name: str) -> Path:
    """The file that a recipe names.

    Raises:
        TeacherError: it is not there, or not of a type that can be read without running what is in it.
    """
    path, types = Path(name), (".safetensors", ".pt", ".pth", ".bin")
    if path.is_file() and path.suffix in types:
        return path
    got = f"a file of type {path.suffix!r}" if path.is_file() else "no such file"
    raise TeacherError(what=f"teacher.weights={name}", got=got, wanted=f"a file of type {', '.join(types)}", try_="an absolute path")


def downloaded(settings: dict[str, Any], what: str) -> Path:
    """The weights file of a pretrained tag: from the Hugging Face cache, else from the network.

    Raises:
        TeacherError: it is not in the cache and cannot be had; within seconds where there is no network.
    """
    from huggingface_hub import constants

    if (path := cached(settings)) is not None:
        return path
    try:
        reach()
        return Path(open_clip().download_pretrained(settings))
    except Exception as wrong:  # the errors of two libraries and their three ways to the network have no common base
        raise TeacherError(
            what=what,
            got=f"no file in the cache, and no download: {first_line(wrong)}",
            wanted=f"{os.path.dirname(settings['hf_hub'])} in {constants.HF_HUB_CACHE}, or a network",
            try_="download it elsewhere and set teacher.weights=FILE; or teacher=fitted, which needs no network",
        ) from None


def cached(settings: dict[str, Any]) -> Path | None:
    """The weights file of a pretrained tag in the Hugging Face cache; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    repository, name = os.path.split(settings["hf_hub"])
    for candidate in (f"{Path(name).stem}.safetensors", name) if name else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        found = try_to_load_from_cache(repository, candidate)
        if isinstance(found, str):
            return Path(found)
    return None


def not_cached(model: str, tag: str, settings: dict[str, Any]) -> TeacherError | None:
    """That the weights of a pretrained tag would have to be downloaded, with the line that does it; None if they are in the cache."""
    from huggingface_hub import constants

    if cached(settings) is not None:
        return None
    fetch = f"import open_clip as o; o.download_pretrained(o.get_pretrained_cfg('{model}', '{tag}'))"
    return TeacherError(
        what=f"teacher {model}:{tag}",
        got="no file in the cache",
        wanted=f"{os.path.dirname(settings['hf_hub'])} in {constants.HF_HUB_CACHE}",
        try_=f'python -c "{fetch}" where there is a network; or teacher.weights=FILE; or teacher=fitted, which needs none',
    )


def reach() -> None:
    """Raise OSError within seconds if nothing can be downloaded: the hub's own library retries for most of a minute before it says so."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    try:
        with urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5):
            pass
    except urllib.error.HTTPError:
        pass  # an answer, if not a friendly one


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 of names, types, shapes and bytes of all weights; tensors are hashed side by side (1.2 GB/s on two cores)."""

    def one(item: tuple[str, torch.Tensor]) -> str:
        name, tensor = item
        found = hashlib.sha256(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return hashlib.sha256("".join(pool.map(one, sorted(model.state_dict().items()))).encode()).hexdigest()


def first_line(wrong: Exception) -> str:
    """What an error says, short enough for a sentence."""
    return " ".join(str(wrong).split())[:200] or type(wrong).__name__
