"""One private Ray cluster for all tests of a module; without Ray they are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from mrdist_cluster import settings
from mrdist_cluster.book import Node


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster that thinks it has six cores."""
    if find_spec("ray") is None:
        pytest.skip("needs mrdist[cluster]")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr(settings, "here", lambda: Node("here", 6))
        with settings.joined():
            import ray

            yield ray.get_runtime_context().gcs_address
