"""Who trains on what others still prepare waits as long as they are at work, whatever they are at work on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrdist.data.claims import Claims
from mrdist.data.shards import Shards
from mrdist.errors import DataError
from mrdist.prepare import follow
from mrdist.prepare.units import announce
from mrdist.prepare.work import Work
from mrdist.recipe import Watch
from tests.colours import Colours
from tests.e2e.test_prepare import recipe


@pytest.mark.parametrize("stage", ["renders", "triplets"])
def test_a_run_waits_for_a_later_round_as_long_as_somebody_makes_it(tmp_path: Path, stage: str) -> None:
    given = recipe(tmp_path, redraw=1, watch=Watch(silence=1e-9))
    work, teacher = Work.open(given), Colours(12)
    announce(work.round(), teacher)
    store, later = follow(given).store, work.round(1)
    later.renders.mkdir(parents=True)
    folder = later.renders if stage == "renders" else later.triplets(teacher.fingerprint)

    def missed(looks: int) -> None:
        for _ in range(looks):
            store.missed(f"round 1 of {store.folder}")

    missed(2)  # the second one finds nobody
    Shards(folder).write("00000", {"some": np.zeros(1)}, {})
    missed(1)  # something new
    with Claims(folder) as claims:
        claims.take("00001")
        missed(3)  # somebody
    with pytest.raises(DataError, match=r"round 1 .*nobody at work"):
        missed(3)
