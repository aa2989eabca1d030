"""A renderer of a pool that can be killed by what it draws."""

from __future__ import annotations

from typing import Any

from mrdist_cluster.actors import RenderActor
from tests.cluster.killer import arm


class Armed(RenderActor):
    """Its shapes are drawn by `tests.cluster.killer`."""

    def __init__(self, *given: Any) -> None:
        arm()
        super().__init__(*given)
