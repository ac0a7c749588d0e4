"""The contract between the pipeline that writes embedding shards and the trainer that reads them.

SPEC.md beside this file is normative. Needs neither torch nor ray.
"""

from schemas.dataset import Dataset, EncodedCaption, LatentRow, Row, open_dataset
from schemas.errors import (
    ConfigError,
    ContractError,
    DamagedDataError,
    EncodeOnceError,
    IdentityMismatchError,
    MissingObjectError,
    StorageError,
)
from schemas.manifest import FORMAT_VERSION

__all__ = [
    "FORMAT_VERSION",
    "ConfigError",
    "ContractError",
    "DamagedDataError",
    "Dataset",
    "EncodeOnceError",
    "EncodedCaption",
    "IdentityMismatchError",
    "LatentRow",
    "MissingObjectError",
    "Row",
    "StorageError",
    "open_dataset",
]
