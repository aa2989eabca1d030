"""A relation as an image: matrices of numbers to pixels, for TensorBoard and for documents."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GAP = 6
"""White pixels between the panels of one picture."""


def drawn(matrices: Mapping[str, Tensor], *, pixels: int = 384) -> dict[str, Tensor]:
    """Matrices by name, as `Objective.pictures` gives them, as images by name.

    "student", "teacher/.." share one scale, so that their colours compare; "difference/.." is signed, around white; "categories", if it is
    there ([N, N], not 0 where two rows are of one category), draws a line in the others wherever the category changes.

    Returns:
        name -> [3, H, W] uint8; H = W >= N, or about `pixels` if N is larger.
    """
    grid = matrices.get("categories")
    shared = [m for name, m in matrices.items() if name.partition("/")[0] in ("student", "teacher")]
    high = max((_high(_fitted(m, pixels)) for m in shared), default=None)
    return {
        name: picture(
            m,
            high=high if any(m is s for s in shared) else None,
            signed=name.startswith("difference"),
            categories=None if name == "categories" else grid,
            pixels=pixels,
        )
        for name, m in matrices.items()
    }


def triptych(student: Tensor, teacher: Tensor, *, categories: Tensor | None = None, pixels: int = 384) -> Tensor:
    """Student | teacher | student − teacher, `[N, N]` each, as one image `[3, H, W]` uint8; the first two share one scale."""
    named = {"student": student, "teacher": teacher, "difference": student - teacher}
    panels = drawn(named if categories is None else {**named, "categories": categories}, pixels=pixels)
    gap = torch.full((3, panels["student"].shape[1], GAP), 255, dtype=torch.uint8)
    return torch.cat([panels["student"], gap, panels["teacher"], gap, panels["difference"]], dim=2)


def picture(
    matrix: Tensor, *, high: float | None = None, signed: bool = False, categories: Tensor | None = None, pixels: int = 384
) -> Tensor:
    """A matrix `[N, N]` as an image `[3, H, W]` uint8.

    Args:
        high: the value that is brightest (signed: ± the values that are most blue and most red); None for the 99th percentile, so that
            a few large entries do not leave the rest black.
        signed: colours around white at 0 instead of dark to bright from 0.
        categories: see `drawn`.
        pixels: matrices wider than this are averaged down to about it, narrower ones enlarged by a whole factor.
    """
    small = _fitted(matrix, pixels)
    high = _high(small) if high is None else high
    level = small / (high or 1.0)
    level = ((level + 1) / 2 if signed else level).clamp(0, 1)
    table = torch.from_numpy(_diverging() if signed else _sequential())
    image = table[(level * 255).round().long()].permute(2, 0, 1)
    if categories is None:
        return image.contiguous()
    return _ruled(image, _borders(categories), len(matrix))


def _fitted(matrix: Tensor, pixels: int) -> Tensor:
    """The matrix enlarged or averaged down to about `pixels`, on the CPU; what is not finite counts as 0."""
    matrix = torch.nan_to_num(matrix.detach().cpu().float(), posinf=0.0, neginf=0.0)
    size = len(matrix)
    if size > pixels:
        return torch.nn.functional.adaptive_avg_pool2d(matrix[None], (pixels, pixels))[0]
    factor = max(pixels // max(size, 1), 1)
    return matrix.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


def _high(small: Tensor) -> float:
    values = small.abs().flatten()
    high = float(torch.quantile(values, 0.99)) if len(values) else 0.0
    return high or float(values.max() if len(values) else 0.0)


def _borders(categories: Tensor) -> list[int]:
    """Rows before which the category changes."""
    same = categories.detach().cpu()
    return [i for i in range(1, len(same)) if not bool(same[i, i - 1])]


def _ruled(image: Tensor, borders: list[int], size: int) -> Tensor:
    """A line at each border, unless there are so many that lines would be all one sees."""
    image = image.clone()
    width = image.shape[1]
    if len(borders) > width // 6:
        return image
    line = torch.tensor([128, 128, 128], dtype=torch.uint8)[:, None]
    for border in borders:
        at = min(round(border * width / size), width - 1)
        image[:, at, :] = line
        image[:, :, at] = line
    return image


@lru_cache(maxsize=1)
def _sequential() -> NDArray[np.uint8]:
    """256 colours from near black over blue and green to pale yellow; lightness grows evenly, so that it survives grey printing."""
    t = np.linspace(0, 1, 256)
    return _srgb(0.16 + 0.81 * t, 0.03 + 0.085 * np.sin(np.pi * t), np.radians(285 - 180 * t))


@lru_cache(maxsize=1)
def _diverging() -> NDArray[np.uint8]:
    """256 colours from blue over white to red, equally light at equal distance from the middle."""
    t = np.linspace(-1, 1, 256)
    return _srgb(0.98 - 0.48 * np.abs(t), 0.15 * np.abs(t) ** 0.9, np.radians(np.where(t < 0, 255, 28)))


def _srgb(lightness: NDArray[np.float64], chroma: NDArray[np.float64], hue: NDArray[np.float64]) -> NDArray[np.uint8]:
    """OKLCh to sRGB bytes (B. Ottosson, 2020): colours of equal lightness look equally light."""
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    to_cones = np.array([[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]])
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip((lab @ to_cones.T) ** 3 @ to_linear.T, 0, 1)
    display = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(display * 255), dtype=np.uint8)
