"""Trains a small teacher on one's own views and captions: for sites without a network, for tests, for the embedded data.

What is left is an ordinary open_clip checkpoint, a folder with open_clip_config.json and a safetensors file, that `ClipConfig` and
other tools open as well. It knows the words and looks of what it was shown, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mrdist.errors import TeacherError
from mrdist.files import settle, settle_all
from mrdist.kinds import Part
from mrdist.progress import Progress, silent
from mrdist.recipe import fingerprint, plain
from mrdist.teachers.base import SUPPLIES, Pairs
from mrdist.teachers.clip import CONFIG, ClipTeacher, Eye
from mrdist.teachers.library import open_clip

VERSION = 2
"""Counts up when the same configuration and pairs would give another teacher."""

WEIGHTS, RECORD = "open_clip_model.safetensors", "fit.json"


@dataclass(frozen=True)
class FittedConfig(Part):
    """A small CLIP: a four-stage ResNet for views and a text transformer, trained from nothing."""

    kind: str = "fitted"
    pixels: int = 64  # width and height of a view as the image tower sees it
    width: int = 128  # E, of an embedding
    channels: int = 16  # of the image tower's first stage; doubled at each of the other three
    blocks: tuple[int, int, int, int] = (1, 1, 1, 1)  # of each stage
    text_width: int = 128
    text_layers: int = 2
    context: int = 24  # tokens of a caption; longer ones are cut
    steps: int = 500
    batch: int = 128  # shapes per step, of each a view and a caption
    lr: float = 2e-3
    weight_decay: float = 0.1
    word_dropout: float = 0.15  # share of words that the text tower does not get to read
    seed: int = 0

    supplies: ClassVar[frozenset[str]] = SUPPLIES
    learns: ClassVar[bool] = True

    def check(self, recipe: object = None) -> None:
        """Raise a TeacherError for values that make no model; `load` of a recipe calls it too."""
        smallest = {"pixels": 32, "width": 1, "channels": 8, "text_width": 32, "text_layers": 1, "context": 3, "steps": 1, "batch": 2}
        for name, least in smallest.items():
            value, step = getattr(self, name), {"pixels": 32, "text_width": 32, "channels": 8}.get(name, 1)
            if value < least or value % step:
                wanted = f"at least {least}" + (f", a multiple of {step}" if step > 1 else "")
                raise TeacherError(
                    what=f"teacher.{name}", got=value, wanted=wanted, try_=f"teacher.{name}={max(least, value // step * step)}"
                )

    def open(self, folder: Path, pairs: Pairs, *, device: str, progress: Progress = silent) -> ClipTeacher:
        """The teacher: fitted now, or opened if this configuration was fitted to these pairs before.

        Raises:
            TeacherError: nothing to learn from, or views that are no pictures.
        """
        place = fit(self, pairs, folder, device, progress)
        teacher = ClipTeacher.read(place, batch=256, device=device)
        teacher.folder = place
        return teacher


def fit(config: FittedConfig, pairs: Pairs, folder: Path, device: str, progress: Progress = silent) -> Path:
    """The folder, below `folder`, of the teacher that this configuration and these pairs give; trained unless it is there.

    The folder gets its name when the teacher is complete: one that was interrupted starts again.

    Raises:
        TeacherError: as `FittedConfig.open`.
    """
    config.check()
    shapes, seen = 0, hashlib.sha256()
    for views, captions in pairs():
        shapes += 1
        seen.update(json.dumps([[hashlib.sha256(view).hexdigest() for view in views], list(captions)]).encode())
    place = folder / f"fitted-{fingerprint(config, VERSION, seen.hexdigest())}"
    if (place / RECORD).is_file():
        return place
    shutil.rmtree(place, ignore_errors=True)  # A teacher without its record is half of one.
    started = time.monotonic()
    model, eye = _untrained(config)
    lessons = _lessons(config, pairs, eye, shapes, progress)
    record = _train(config, model, eye, lessons, torch.device(device), progress)
    _save(model, config, place, {"config": plain(config), **record, "seconds": round(time.monotonic() - started, 1)})
    return place


def description(config: FittedConfig) -> dict[str, Any]:
    """The architecture in open_clip's words.

    The tokenizer is the library's own, with all of its 49,408 tokens, although captions of one catalogue use a few hundred: any other
    would have to travel with the checkpoint. The table costs 25 MB of disk and a few milliseconds per step.
    """
    return {
        "embed_dim": config.width,
        "vision_cfg": {"layers": list(config.blocks), "width": config.channels, "head_width": 32, "image_size": config.pixels},
        "text_cfg": {
            "context_length": config.context,
            "vocab_size": 49408,
            "width": config.text_width,
            "heads": config.text_width // 32,
            "layers": config.text_layers,
        },
    }


class _Lessons(NamedTuple):
    """What there is to learn, in memory: S shapes, all of their views, and every caption once."""

    views: NDArray[np.uint8]  # [sum of views, H, W, 3], shape after shape
    first: NDArray[np.int64]  # [S + 1] where each shape's views begin
    said: NDArray[np.int64]  # [S, most captions] which captions each shape has; -1 after the last
    ids: Tensor  # [captions, context] int64 tokens


def _untrained(config: FittedConfig) -> tuple[Any, Eye]:
    library = open_clip()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = library.CLIP(**description(config))
    looks = {"size": config.pixels, "mode": "RGB", "mean": [0.5] * 3, "std": [0.25] * 3}
    library.set_model_preprocess_cfg(model, looks | {"interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0})
    return model, Eye(model.visual.preprocess_cfg)


def _lessons(config: FittedConfig, pairs: Pairs, eye: Eye, shapes: int, progress: Progress) -> _Lessons:
    pictures: list[NDArray[np.uint8]] = []
    counts, said = [], []
    numbers: dict[str, int] = {}
    with ThreadPoolExecutor(8) as pool:
        for done, (views, captions) in enumerate(pairs()):
            progress("read views", done, shapes)
            if views and captions:
                pictures += pool.map(eye.read, views)
                counts.append(len(views))
                said.append([numbers.setdefault(caption, len(numbers)) for caption in captions])
    if len(counts) < 2:
        what, wanted = "teacher.kind=fitted", "at least two that have views and captions"
        raise TeacherError(
            what=what,
            got=f"{len(counts)} shapes to learn from",
            wanted=wanted,
            try_="give the catalogue captions, or teacher=PRESET of a trained one",
        )
    padded = np.full((len(said), max(map(len, said))), -1)
    for row, caption_numbers in zip(padded, said, strict=True):
        row[: len(caption_numbers)] = caption_numbers
    ids = open_clip().SimpleTokenizer(context_length=config.context)(list(numbers))
    return _Lessons(np.stack(pictures), np.cumsum([0, *counts]), padded, ids)


def _train(config: FittedConfig, model: Any, eye: Eye, lessons: _Lessons, device: torch.device, progress: Progress) -> dict[str, Any]:
    """Train in place; what is worth keeping about it."""
    random, draw = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)
    model.to(device).train().visual.to(memory_format=torch.channels_last)
    parameters = dict(model.named_parameters())
    plain_ones = [p for name, p in parameters.items() if p.ndim < 2 or "embedding" in name]
    others = [p for name, p in parameters.items() if not (p.ndim < 2 or "embedding" in name)]
    groups = [{"params": others, "weight_decay": config.weight_decay}, {"params": plain_ones, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
    batch = config.batch
    unread = _unread(lessons.ids)
    warmup = max(1, min(50, config.steps // 10))
    losses, hits, queue = [], [], np.zeros(0, dtype=np.int64)
    for step in range(config.steps):
        progress("fit teacher", step, config.steps)
        while len(queue) < batch:
            queue = np.concatenate([queue, random.permutation(len(lessons.said))])
        mine, queue = queue[:batch], queue[batch:]
        views = lessons.first[mine] + (random.random(batch) * np.diff(lessons.first)[mine]).astype(int)
        said = lessons.said[mine]
        chosen = said[np.arange(batch), (random.random(batch) * (said >= 0).sum(1)).astype(int)]
        pictures = _varied(eye.normal(torch.from_numpy(lessons.views[views]).to(device)), draw)
        ids = _with_gaps(lessons.ids[chosen], unread, config.word_dropout, draw).to(device)
        # Whatever else in the batch is also true of a shape is no mistake: a caption counts for every shape that has it.
        true = torch.from_numpy((said[:, :, None] == chosen).any(1)).to(device)
        for group in optimiser.param_groups:
            group["lr"] = config.lr * min(1.0, (step + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * step / config.steps))
        logits = (
            model.logit_scale.exp().clamp(max=100) * model.encode_image(pictures, normalize=True) @ model.encode_text(ids, normalize=True).T
        )
        loss = (_surprise(logits, true) + _surprise(logits.T, true.T)) / 2
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
        hits.append(float(true.gather(1, logits.argmax(1, keepdim=True)).float().mean()))
    progress("fit teacher", config.steps, config.steps)
    _settle(model, eye, lessons, batch, device)
    _teach_unread(model, lessons.ids, unread)
    last = max(1, config.steps // 10)
    return {
        "shapes": len(lessons.said),
        "views": len(lessons.views),
        "loss": float(np.mean(losses[-last:])),
        "right": float(np.mean(hits[-last:])),
    }


def _surprise(logits: Tensor, true: Tensor) -> Tensor:
    """Cross-entropy `[B, C] -> []` against the even distribution over the true columns of each row."""
    return -((logits.log_softmax(1) * true).sum(1) / true.sum(1)).mean()


def _varied(pictures: Tensor, draw: torch.Generator) -> Tensor:
    """Views `[B, 3, H, W]` resized, mirrored, lighter or darker: what changes no word about them. (Moving them made the fit worse.)"""

    def uniform(size: float) -> Tensor:
        return (2 * torch.rand(len(pictures), generator=draw) - 1) * size

    zoom, zero = 1 + uniform(0.1), torch.zeros(len(pictures))
    mirrored = zoom * uniform(1).sign()
    places = torch.stack([torch.stack([mirrored, zero, zero], 1), torch.stack([zero, zoom, zero], 1)], 1).to(pictures.device)
    light = 1 + uniform(0.1)[:, None, None, None].to(pictures.device)
    grid = functional.affine_grid(places, list(pictures.shape), align_corners=False)
    moved = functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False) * light
    return moved.contiguous(memory_format=torch.channels_last)


def _settle(model: Any, eye: Eye, lessons: _Lessons, batch: int, device: torch.device) -> None:
    """Take the statistics of batch normalisation anew, from the finished weights and views as they are.

    Running means lag behind the weights and have seen only resized views ("precise" statistics: Wu and Johnson 2021, section 3).
    """
    for module in model.visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
    picked = np.linspace(0, len(lessons.views) - 1, min(len(lessons.views), 16 * batch)).astype(int)
    with torch.no_grad():
        for some in np.array_split(np.random.default_rng(0).permutation(picked), max(1, len(picked) // batch)):
            model.visual(eye.normal(torch.from_numpy(lessons.views[some]).to(device)))


def _unread(ids: Tensor) -> int:
    """A token that no caption has."""
    used = set(np.unique(ids.numpy()).tolist())
    return next(token for token in range(1, 49406) if token not in used)


def _with_gaps(ids: Tensor, unread: int, share: float, draw: torch.Generator) -> Tensor:
    """`ids [B, L]` with a share of the words replaced by `unread`; padding and the marks of start and end stay."""
    gaps = (torch.rand(ids.shape, generator=draw) < share) & (ids > 0) & (ids < 49406)
    return ids.masked_fill(gaps, unread)


def _teach_unread(model: Any, ids: Tensor, unread: int) -> None:
    """Let every word that no caption has be read as a gap: its own row of the table is still what chance made it."""
    table = model.token_embedding.weight.data
    strange = torch.ones(len(table), dtype=torch.bool)
    strange[np.unique(ids.numpy())] = False
    table[strange.to(table.device)] = table[unread].clone()


def _save(model: Any, config: FittedConfig, place: Path, record: dict[str, Any]) -> None:
    """Write the checkpoint beside, then give it its name; of two that do so at once, the first wins."""
    from safetensors.torch import save_file

    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    words = {"model_cfg": description(config), "preprocess_cfg": model.visual.preprocess_cfg}
    (beside / CONFIG).write_text(json.dumps(words, indent=2))
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, beside / WEIGHTS)
    (beside / RECORD).write_text(json.dumps(record, indent=2))
    beside.chmod(0o755)  # temporary folders are for their owner only
    settle_all(beside)
    try:
        beside.rename(place)
        settle(place.parent)
    except OSError:
        if not (place / RECORD).is_file():
            raise
        shutil.rmtree(beside)
