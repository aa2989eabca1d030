"""Teachers from open_clip: any of its models, by name and pretrained tag, from a weights file, or from a folder."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from mrdist.errors import TeacherError
from mrdist.kinds import Part
from mrdist.progress import Progress, silent
from mrdist.recipe import fingerprint
from mrdist.teachers.base import SUPPLIES, Pairs, Rows
from mrdist.teachers.library import created, downloaded, first_line, known, not_cached, open_clip, weights_digest, weights_file

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

    supplies: ClassVar[frozenset[str]] = SUPPLIES
    learns: ClassVar[bool] = False

    def check(self, recipe: object = None) -> None:
        """Raise a TeacherError for values that mean nothing; `load` of a recipe calls it too."""
        if self.precision not in DTYPES:
            what, wanted = "teacher.precision", " or ".join(DTYPES)
            raise TeacherError(what=what, got=repr(self.precision), wanted=wanted, try_="teacher.precision=fp32")
        if self.batch < 1:
            raise TeacherError(what="teacher.batch", got=self.batch, wanted="at least 1", try_="teacher.batch=64")

    def look(self) -> None:
        """Refuse a model, a tag or a file that is not there. What a tag would download is not asked for: see `absent`.

        Raises:
            TeacherError: there is no such thing.
        """
        if not self._in_folder():
            self._settings()
            if self.weights:
                weights_file(self.weights)

    def absent(self) -> TeacherError | None:
        """What `open` would have to download, as an error that says how to have it before; None if nothing.

        Raises:
            TeacherError: as `look`.
        """
        if self._in_folder() or self.weights:
            return None
        return not_cached(self.model, self.pretrained, self._settings())

    def open(self, folder: Path, pairs: Pairs, *, device: str, progress: Progress = silent) -> ClipTeacher:
        """The teacher, ready to embed; `folder`, `pairs` and `progress` are not looked at.

        Raises:
            TeacherError: no such model, tag or file; no network where one is needed; weights that do not fit.
        """
        self.check()
        if self._in_folder():
            return ClipTeacher.read(Path(self.model), precision=self.precision, batch=self.batch, device=device)
        settings = self._settings()
        path = weights_file(self.weights) if self.weights else downloaded(settings, self._name)
        # A tag says how its weights were trained. Left to itself the library only warns about another activation,
        # and prepares pictures for a weights file as for OpenAI's models.
        build = {"pretrained": str(path), "force_quick_gelu": bool(settings.get("quick_gelu")), "force_preprocess_cfg": settings}
        model, tokenizer = created(self.model, self._name, self.precision, **build)
        config = {"name": self.model, "quick_gelu": build["force_quick_gelu"], **open_clip().get_model_config(self.model)}
        return ClipTeacher(model, tokenizer, config, precision=self.precision, batch=self.batch, device=device)

    @property
    def _name(self) -> str:
        return f"teacher {self.model}:{self.pretrained}" if self.pretrained else f"teacher {self.model}"

    def _in_folder(self) -> bool:
        """Whether the model is a folder, which has all that it needs."""
        there = (Path(self.model) / CONFIG).is_file()
        if there and (self.pretrained or self.weights):
            what, wanted = f"teacher.model={self.model}", "neither beside a folder, which has its own weights"
            raise TeacherError(what=what, got="teacher.pretrained or teacher.weights", wanted=wanted, try_="leave both empty")
        return there

    def _settings(self) -> dict[str, Any]:
        """What open_clip knows of the tag; empty if there is none."""
        clip = open_clip()
        known(self.model, clip.list_models(), what="teacher.model", besides=f", or a folder with {CONFIG}")
        if self.pretrained:
            known(self.pretrained, clip.list_pretrained_tags_by_model(self.model), what=f"teacher.pretrained of {self.model}")
            settings: dict[str, Any] = clip.get_pretrained_cfg(self.model, self.pretrained)
            return settings
        if not self.weights:
            raise TeacherError(what=self._name, got="neither a tag nor weights", wanted="a trained model", try_="teacher.pretrained=TAG")
        return {}


class ClipTeacher:
    """A frozen open_clip model that embeds encoded pictures and captions."""

    folder: Path | None = None
    """The checkpoint of a teacher that was made here and nobody else has: what an export must carry along."""

    def __init__(self, model: Any, tokenizer: Any, config: dict[str, Any], *, precision: str, batch: int, device: str) -> None:
        """
        Args:
            model: on the CPU, in its precision.
            config: what besides its weights decides what it says: the library's description of the architecture.
        """
        clip = open_clip()
        self._eye = Eye(model.visual.preprocess_cfg)
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
        model, tokenizer = created(f"local-dir:{folder}", f"teacher {folder}", precision, require_pretrained=True)
        return cls(model, tokenizer, open_clip().get_model_config(f"local-dir:{folder}"), precision=precision, batch=batch, device=device)

    def images(self, encoded: Sequence[bytes]) -> Rows:
        """Unit rows `[N, E]` of N pictures, each the bytes of a JPEG or PNG file.

        Raises:
            TeacherError: bytes that are no picture.
        """
        rows = []
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, torch.inference_mode():
            for pictures in _ahead(pool, self._eye.read, encoded, self._batch):
                batch = self._eye.normal(torch.from_numpy(np.stack(pictures)).to(self._device))
                rows.append(_unit(self._model.encode_image(batch.to(self._dtype))))
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
        if not captions:
            return np.zeros((0, 0, 0), dtype=np.float32), np.zeros((0, 0), dtype=np.bool_)
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

    def _ids(self, captions: Sequence[str]) -> Iterator[torch.Tensor]:
        for start in range(0, len(captions), self._batch):
            yield self._tokenizer(list(captions[start : start + self._batch])).to(self._device)

    def _joined(self, rows: list[Rows]) -> Rows:
        return np.concatenate(rows) if rows else np.zeros((0, self.width), dtype=np.float32)


class Eye:
    """How encoded pictures become what an image tower takes."""

    def __init__(self, preprocess: dict[str, Any]) -> None:
        """`preprocess`: the library's description: size, mean, std, interpolation, resize_mode."""
        transform = open_clip().transform
        steps = transform.image_transform_v2(transform.PreprocessCfg(**preprocess), is_train=False).transforms
        # Those on pictures are done one by one in threads; the last two, on tensors, on the device, a batch at a time.
        assert [type(step).__name__ for step in steps[-2:]] == ["MaybeToTensor", "Normalize"]
        self._steps, self._normalise = steps[:-2], steps[-1]

    def read(self, encoded: bytes) -> Picture:
        """One picture in the size that the model wants.

        Raises:
            TeacherError: no picture.
        """
        from PIL import Image

        try:
            picture = Image.open(io.BytesIO(encoded)).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as wrong:
            wanted, try_ = "the bytes of a JPEG or PNG file", "render this view again"
            raise TeacherError(what="picture", got=first_line(wrong), wanted=wanted, try_=try_) from None
        for step in self._steps:
            picture = step(picture)
        return np.asarray(picture)

    def normal(self, pictures: torch.Tensor) -> torch.Tensor:
        """`[B, H, W, 3]` bytes as `[B, 3, H, W]` floats with the mean and deviation that the model expects."""
        normal: torch.Tensor = self._normalise(pictures.permute(0, 3, 1, 2) / 255)
        return normal


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
