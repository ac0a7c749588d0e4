"""Reads the images of rows again from the tars that they were encoded from.

A ledger record names its tar: URL, size and ETag when it was read. A tar that is no longer there, or no longer the
same, is an error. Where tars were moved, the user names their new place; there size and keys decide, since a copy has
another ETag.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from pipeline.latents.images import CroppedImage, ImageReader
from pipeline.latents.options import ImageConfig
from pipeline.latents.pixel_budget import PixelBudget
from pipeline.sources import InputTar, list_inputs, scan_tar
from pipeline.sources.caption_text import Fault
from pipeline.verification.sampling import SampledLatents
from schemas.dataset import Dataset
from schemas.errors import DamagedDataError, MissingObjectError
from schemas.identity import LatentIdentity
from schemas.latent_manifest import LATENTS_GROUP
from schemas.ledger import LedgerRecord, keys_sha256
from schemas.storage import Store


class SourceImages:
    """The tars of a dataset's latents.

    Args:
        dataset: Opened.
        input_url: Where the tars are now: a folder, prefix or pattern below which they have the names of the shards, as
            for `encode`. None: where the ledger records say.

    Raises:
        ConfigError: There are no tars at `input_url`.
    """

    def __init__(self, dataset: Dataset, input_url: str | None) -> None:
        self._dataset = dataset
        self._inputs = None if input_url is None else list_inputs(input_url)

    def read(self, rows: Sequence[SampledLatents], identity: LatentIdentity) -> Iterator[CroppedImage | Fault]:
        """The images of rows, resized and cropped as the identity says, a row at a time.

        Every tar is read once, front to back.

        Args:
            rows: By shard and index.
            identity: Of the latents.

        Yields:
            The image of each row, or why it cannot be decoded now.

        Raises:
            MissingObjectError: A tar is not there.
            DamagedDataError: A tar is not the one that was encoded.
        """
        # Limits are those of the run that encoded these images, and they were within them.
        unlimited = ImageConfig(identity.resolution, identity.crop, max_upscale=math.inf, max_pixels=2**62)
        reader = ImageReader(identity.buckets, unlimited, PixelBudget(1))
        for shard, found in itertools.groupby(rows, key=lambda row: row.shard):
            record = self._dataset.record(LATENTS_GROUP, shard)
            store, tar = self._open(record)
            scan = scan_tar(store, tar, (), images=True)
            if keys_sha256(scan.keys) != record.keys_sha256:
                raise _changed(store.locate(tar.path), record, f"{len(scan.keys)} samples, with other keys")
            for row in found:
                (data,) = scan.images(row.index, row.index + 1)
                if data is None:
                    raise _changed(store.locate(tar.path), record, f"no image of {row.key}")
                yield reader.read(data)

    def _open(self, record: LedgerRecord) -> tuple[Store, InputTar]:
        source = record.source
        if self._inputs is not None:
            tar = next((tar for tar in self._inputs.tars if tar.shard == record.shard), None)
            if tar is None:
                raise _missing(self._inputs.store.locate(f"{record.shard}.tar"), record)
            if tar.num_bytes != source.num_bytes:
                raise _changed(self._inputs.store.locate(tar.path), record, f"{tar.num_bytes} bytes")
            return self._inputs.store, tar
        root, _, name = source.url.rpartition("/")
        store = Store(root or "/")
        info = store.head(name)
        if info is None:
            raise _missing(source.url, record)
        if info.num_bytes != source.num_bytes or (
            None not in (info.e_tag, source.e_tag) and info.e_tag != source.e_tag
        ):
            raise _changed(source.url, record, f"{info.num_bytes} bytes, ETag {info.e_tag}")
        return store, InputTar(record.shard, name, info.num_bytes, info.e_tag)


def _missing(where: str, record: LedgerRecord) -> MissingObjectError:
    return MissingObjectError(
        "source-missing",
        where=where,
        expected=f"the tar that the latents of shard {record.shard} were encoded from",
        actual="not found",
        remedy="name the place where the tars are now by --input: folder, prefix or pattern, as for `encode`",
    )


def _changed(where: str, record: LedgerRecord, actual: str) -> DamagedDataError:
    source = record.source
    return DamagedDataError(
        "source-changed",
        where=where,
        expected=f"the tar as it was encoded: {source.num_bytes} bytes, ETag {source.e_tag}, {record.num_rows} samples",
        actual=actual,
        remedy="name the place of the tar as it was by --input; of a copy with other timestamps too, since there only "
        "size and keys are compared",
    )
