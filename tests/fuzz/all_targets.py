"""Every target, by name."""

from __future__ import annotations

from tests.fuzz.containers import CONTAINERS
from tests.fuzz.datasets import DATASETS
from tests.fuzz.documents import DOCUMENTS
from tests.fuzz.target import Target
from tests.fuzz.tars import TARS
from tests.fuzz.values import VALUES

TARGETS: dict[str, Target] = {target.name: target for target in (*DOCUMENTS, *CONTAINERS, *TARS, *DATASETS, *VALUES)}
