"""Teachers from open_clip: any of its models, by name and pretrained tag, from a weights file, or from a folder."""

from __future__ import annotations

import difflib
import hashlib
import io
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrdist.errors import TeacherError
from mrdist.kinds import Part
from mrdist.progress import Progress, silent
from mrdist.recipe import fingerprint
from mrdist.teachers.base import Pairs, Rows
from mrdist.torchvision_cpu import ensure_torchvision

CONFIG = "open_clip_config.json"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Picture = NDArray[np.uint8]  # [H, W, 3]


@dataclass(frozen=True)
class ClipConfig(Part):
    """A model of open_clip.

    The network is used only if `weights` is empty and the file that `pretrained` names is not in the Hugging Face cache.
    """

    kind: str = "clip"
    model: str = "ViT-B-32"  # a name that open_clip lists, or a folder with open_clip_config.json and weights
    pretrained: str = ""  # a tag of that model: which weights, and how pictures are prepared for them
    weights: str = ""  # a file to use instead of the download: .safetensors, or .pt and .bin that hold tensors only
    precision: str = "fp32"  # fp32 | bf16
    batch: int = 64  # pictures or captions at a time; changes no result

    def open(self, folder: Path, pairs: Pairs, *, device: str, progress: Progress = silent) -> ClipTeacher:
        """The teacher, ready to embed; `folder`, `pairs` and `progress` are not looked at.

        Raises:
            TeacherError: no such model, tag or file; no network where one is needed; weights that do not fit.
        """
        precision = _known(self.precision, list(DTYPES), what="teacher.precision")
        if (Path(self.model) / CONFIG).is_file():
            return ClipTeacher.read(Path(self.model), precision=precision, batch=self.batch, device=device)
        clip = open_clip()
        name = _known(self.model, clip.list_models(), what="teacher.model", besides=f", or a folder with {CONFIG}")
        what = f"teacher {name}:{self.pretrained}" if self.pretrained else f"teacher {name}"
        settings: dict[str, Any] = {}
        if self.pretrained:
            tags = [tag for known, tag in clip.list_pretrained() if known == name]
            settings = clip.get_pretrained_cfg(name, _known(self.pretrained, tags, what=f"teacher.pretrained of {name}"))
        elif not self.weights:
            raise TeacherError(what=what, got="neither a tag nor weights", wanted="a trained model", try_="teacher.pretrained=TAG")
        path = _weights_file(self.weights) if self.weights else downloaded(settings, what)
        # A tag says how its weights were trained. Left to itself the library only warns about another activation,
        # and prepares pictures for a weights file as for OpenAI's models.
        build = {"pretrained": str(path), "force_quick_gelu": bool(settings.get("quick_gelu")), "force_preprocess_cfg": settings}
        model, tokenizer = _created(name, what, precision, **build)
        config = {"name": name, "quick_gelu": build["force_quick_gelu"], **clip.get_model_config(name)}
        return ClipTeacher(model, tokenizer, config, precision=precision, batch=self.batch, device=device)


class ClipTeacher:
    """A frozen open_clip model that embeds encoded pictures and captions."""

    def __init__(self, model: Any, tokenizer: Any, config: dict[str, Any], *, precision: str, batch: int, device: str) -> None:
        """
        Args:
            model: on the CPU, in its precision.
            config: what besides its weights decides what it says: the library's description of the architecture.
        """
        clip = open_clip()
        steps = clip.transform.image_transform_v2(clip.transform.PreprocessCfg(**model.visual.preprocess_cfg), is_train=False).transforms
        # The steps on pictures run in threads, one picture each; the last two, on tensors, on the device, a batch at a time.
        assert [type(step).__name__ for step in steps[-2:]] == ["MaybeToTensor", "Normalize"]
        self._steps, self._normalise = steps[:-2], steps[-1]
        self._tokenizer = tokenizer
        self._batch, self._device, self._dtype = batch, torch.device(device), DTYPES[precision]
        self.fingerprint = fingerprint(config, model.visual.preprocess_cfg, precision, weights_digest(model))
        self.width = int(config["embed_dim"])
        text = model if isinstance(model, clip.CLIP) else model.text
        self._says_tokens = isinstance(text, clip.CLIP | clip.transformer.TextTransformer)
        self.supplies = frozenset({"image", "text"} | ({"caption tokens"} if self._says_tokens else set()))
        self._pooled_at_end = getattr(text, "text_pool_type", getattr(text, "pool_type", "")) == "argmax"
        self._model = model.to(self._device).eval().requires_grad_(False)

    @classmethod
    def read(cls, folder: Path, *, precision: str = "fp32", batch: int = 64, device: str = "cpu") -> ClipTeacher:
        """The teacher in a folder that open_clip calls `local-dir:`: open_clip_config.json and a file of weights.

        Raises:
            TeacherError: the folder holds something else.
        """
        model, tokenizer = _created(f"local-dir:{folder}", f"teacher {folder}", precision, require_pretrained=True)
        return cls(model, tokenizer, open_clip().get_model_config(f"local-dir:{folder}"), precision=precision, batch=batch, device=device)

    def images(self, encoded: Sequence[bytes]) -> Rows:
        """Unit rows `[N, E]` of N pictures, each the bytes of a JPEG or PNG file.

        Raises:
            TeacherError: bytes that are no picture.
        """
        rows = []
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, torch.inference_mode():
            for pictures in _ahead(pool, self._picture, encoded, self._batch):
                batch = torch.from_numpy(np.stack(pictures)).to(self._device).permute(0, 3, 1, 2)
                rows.append(_unit(self._model.encode_image(self._normalise(batch / 255).to(self._dtype))))
        return self._joined(rows)

    def texts(self, captions: Sequence[str]) -> Rows:
        """Unit rows `[N, E]` of N captions; what is longer than the model's context is cut."""
        with torch.inference_mode():
            return self._joined([_unit(self._model.encode_text(ids)) for ids in self._ids(captions)])

    def tokens(self, captions: Sequence[str]) -> tuple[Rows, NDArray[np.bool_]]:
        """The text tower's normalised last layer `[N, L, D]`, and which of the L places hold a token `[N, L]`; the rest is zero.

        Raises:
            TeacherError: this model's text tower does not show them.
        """
        if not self._says_tokens:
            what, try_ = f"teacher {self.fingerprint}", "a model with open_clip's own text tower, such as ViT-B-32"
            raise TeacherError(what=what, got="a text tower of another library", wanted="caption tokens", try_=try_)
        states, masks = [], []
        with torch.inference_mode():
            for ids in self._ids(captions):
                shown = {"text_indices": 1, "text_output_fmt": "NLC", "intermediates_only": True, "normalize_intermediates": True}
                (state,) = self._model.forward_intermediates(text=ids, **shown)["text_intermediates"]
                # The end token has the largest id. Zero is padding, but it is also "!".
                mask = torch.arange(ids.shape[1], device=ids.device) <= ids.argmax(1, keepdim=True) if self._pooled_at_end else ids != 0
                states.append((state.float() * mask[..., None]).cpu().numpy())
                masks.append(mask.cpu().numpy())
        return np.concatenate(states), np.concatenate(masks)

    def _picture(self, encoded: bytes) -> Picture:
        """One picture in the size that the model wants."""
        from PIL import Image

        try:
            picture = Image.open(io.BytesIO(encoded)).convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as wrong:
            raise TeacherError(
                what="picture", got=str(wrong), wanted="the bytes of a JPEG or PNG file", try_="render this view again"
            ) from None
        for step in self._steps:
            picture = step(picture)
        return np.asarray(picture)

    def _ids(self, captions: Sequence[str]) -> Iterator[torch.Tensor]:
        for start in range(0, len(captions), self._batch):
            yield self._tokenizer(list(captions[start : start + self._batch])).to(self._device)

    def _joined(self, rows: list[Rows]) -> Rows:
        return np.concatenate(rows) if rows else np.zeros((0, self.width), dtype=np.float32)


def open_clip() -> Any:
    """The library, imported: the only way to it.

    Raises:
        TeacherError: it is not installed.
    """
    try:
        ensure_torchvision()
        import open_clip as library
    except ModuleNotFoundError as missing:
        got, try_ = f"no module {missing.name}", "pip install open_clip_torch"
        raise TeacherError(what="open_clip", got=got, wanted="open_clip_torch and what it needs", try_=try_) from None
    return library


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 of names, types, shapes and bytes of all weights; tensors are hashed side by side."""

    def one(item: tuple[str, torch.Tensor]) -> str:
        name, tensor = item
        found = hashlib.sha256(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return hashlib.sha256("".join(pool.map(one, sorted(model.state_dict().items()))).encode()).hexdigest()


def downloaded(settings: dict[str, Any], what: str) -> Path:
    """The weights file of a pretrained tag: from the Hugging Face cache, else from the network.

    Raises:
        TeacherError: it is not in the cache and cannot be had; within seconds where there is no network.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    repository, name = os.path.split(settings["hf_hub"])
    for candidate in (f"{Path(name).stem}.safetensors", name) if name else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        cached = try_to_load_from_cache(repository, candidate)
        if isinstance(cached, str):
            return Path(cached)
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        _knock(constants.ENDPOINT)
        return Path(open_clip().download_pretrained(settings))
    except Exception as wrong:  # its errors, the hub's and three HTTP libraries' have no common base
        raise TeacherError(
            what=what,
            got=f"no file in the cache, and no download: {_first_line(wrong)}",
            wanted=f"{repository} in {constants.HF_HUB_CACHE}, or a network",
            try_="download it elsewhere and set teacher.weights=FILE; or teacher=fitted, which needs no network",
        ) from None


def _knock(address: str) -> None:
    """Raise OSError unless somebody answers: the hub's library retries for most of a minute before it says so."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=5):
            pass
    except urllib.error.HTTPError:
        pass  # an answer, if not a friendly one


def _created(name: str, what: str, precision: str, **build: Any) -> tuple[Any, Any]:
    """Model and tokenizer, or a TeacherError."""
    clip = open_clip()
    try:
        return clip.create_model(name, precision=precision, device="cpu", **build), clip.get_tokenizer(name)
    except Exception as wrong:  # whatever a foreign file makes the library say
        if isinstance(wrong, ModuleNotFoundError):
            wanted, try_ = f"a package that this model needs: {wrong.name}", f"pip install {wrong.name}"
        else:
            wanted, try_ = "weights that fit the model, tensors only", "check teacher.model and teacher.weights; prefer .safetensors"
        raise TeacherError(what=what, got=_first_line(wrong), wanted=wanted, try_=try_) from None


def _weights_file(name: str) -> Path:
    path = Path(name)
    if path.is_file() and path.suffix in (".safetensors", ".pt", ".pth", ".bin"):
        return path
    got = f"a file of type {path.suffix!r}" if path.is_file() else "no such file"
    raise TeacherError(what=f"teacher.weights={name}", got=got, wanted="a .safetensors, .pt, .pth or .bin file", try_="an absolute path")


def _known(value: str, among: Iterable[str], *, what: str, besides: str = "") -> str:
    among = list(among)
    if value in among:
        return value
    near = difflib.get_close_matches(value, among, n=3, cutoff=0.3)
    wanted = (", ".join(among) if len(among) < 12 else f"one of the {len(among)} that open_clip lists") + besides
    raise TeacherError(what=what, got=repr(value), wanted=wanted, try_=" or ".join(near) or "see open_clip.list_pretrained()")


def _ahead(pool: ThreadPoolExecutor, work: Callable[[bytes], Picture], items: Sequence[bytes], size: int) -> Iterator[list[Picture]]:
    """`work(item)` of every item, `size` at a time; the next batch is made while the caller uses this one."""
    starts = range(0, len(items), size)
    coming = [pool.submit(work, item) for item in items[:size]]
    for start in starts:
        ready, coming = coming, [pool.submit(work, item) for item in items[start + size : start + 2 * size]]
        yield [picture.result() for picture in ready]


def _unit(embeddings: torch.Tensor) -> Rows:
    unit: Rows = torch.nn.functional.normalize(embeddings.float(), dim=-1).cpu().numpy()
    return unit


def _first_line(wrong: Exception) -> str:
    return " ".join(str(wrong).split())[:200] or type(wrong).__name__
