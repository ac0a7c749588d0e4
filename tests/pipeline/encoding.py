"""What tests of the encoding share: small encoders, tars in memory, a shard encoder without ray."""

from __future__ import annotations

import functools
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from pipeline.encoders import EncoderConfig, TextEncoder, load_encoder
from pipeline.shard_encoder import EngineSettings, ShardEncoder
from pipeline.sources import InputTar
from schemas.identity import ENCODER_NAMES, CaptionIdentity, ComputeDtype, Padding, StorageDtype
from schemas.manifest import Container, Layout, Manifest, Provenance, create_or_require_same
from schemas.storage import Store


@functools.cache
def small_encoders(
    padding: Padding, compute_dtype: ComputeDtype = "float32", storage_dtype: StorageDtype = "float32"
) -> dict[str, TextEncoder]:
    """The demo's random encoders."""
    return {
        name: load_encoder(
            name,
            EncoderConfig(source="random"),
            padding=padding,
            compute_dtype=compute_dtype,
            storage_dtype=storage_dtype,
            device="cpu",
        )
        for name in ENCODER_NAMES
    }


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> InputTar:
    """A tar at `path`, and its entry in a listing."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out.getvalue())
    return listed(path)


def listed(path: Path) -> InputTar:
    """A tar's entry in a listing of its folder."""
    info = Store(str(path.parent)).head(path.name)
    assert info is not None
    return InputTar(path.stem, path.name, info.num_bytes, info.e_tag)


def make_manifest(encoders: dict[str, TextEncoder], container: Container = "arrow", chunk_rows: int = 4) -> Manifest:
    """The manifest of a dataset of these encoders."""
    return Manifest(
        layout=Layout(container=container, chunk_rows=chunk_rows, part_bytes=2 * 1024**2),
        captions=CaptionIdentity(**{name: encoders[name].identity for name in ENCODER_NAMES}),
        created=Provenance(run_id="test", time="2026-01-01T00:00:00+00:00", versions={}),
    )


def shard_encoder(
    inputs: Path,
    dataset: Path,
    encoders: dict[str, TextEncoder],
    *,
    container: Container = "arrow",
    settings: EngineSettings | None = None,
    chunk_rows: int = 4,
) -> ShardEncoder:
    """A worker without ray, on a dataset that is made if it is not there."""
    store = Store(str(dataset))
    manifest = create_or_require_same(store, make_manifest(encoders, container, chunk_rows))
    return ShardEncoder(
        Store(str(inputs)), store, manifest, encoders, settings or EngineSettings(), run_id="test", device="cpu"
    )
