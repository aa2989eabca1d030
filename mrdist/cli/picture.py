"""A run as one picture: how its student relates shapes, beside how its teacher does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mrdist.encoder import Encoder
    from mrdist.prepare import Prepared

_SHAPES = 232


def relations(encoder: Encoder, prepared: Prepared, split: str, path: Path) -> None:
    """Write student | teacher | difference as a PNG.

    Each matrix holds, for shapes of a split sorted by category, the softmax of their cosines at temperature 0.2: the student's among
    clouds, the teacher's among views (mean of a shape's views).
    """
    import numpy as np
    import torch
    from PIL import Image

    from mrdist.relation.pictures import triptych

    rows = prepared.store.indices(split)
    rows = rows[:: max(1, len(rows) // _SHAPES)][:_SHAPES]
    shapes = sorted((prepared.store[int(row)] for row in rows), key=lambda shape: shape.category)
    shapes = [shape for shape in shapes if len(shape.image)]
    if len(shapes) < 2:
        return
    views = torch.from_numpy(np.stack([shape.image.astype(np.float32).mean(0) for shape in shapes]))
    names = sorted({shape.category for shape in shapes})
    labels = torch.tensor([names.index(shape.category) for shape in shapes])

    def related(unit: torch.Tensor) -> torch.Tensor:
        cosines = unit @ unit.T / 0.2
        return cosines.fill_diagonal_(-torch.inf).softmax(-1)

    student = related(encoder.encode([shape.points for shape in shapes]).cpu())
    teacher = related(torch.nn.functional.normalize(views, dim=-1))
    picture = triptych(student, teacher, categories=(labels[:, None] == labels).float(), pixels=2 * _SHAPES)
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
