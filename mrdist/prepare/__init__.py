"""From a recipe to what can be trained on: catalogue, renders, teacher, triplets; a re-run does only what is missing."""

from mrdist.prepare.alone import prepare
from mrdist.prepare.brought import brings
from mrdist.prepare.prepared import Prepared, follow, open_prepared
from mrdist.prepare.work import DataConfig

__all__ = ["DataConfig", "Prepared", "brings", "follow", "open_prepared", "prepare"]
