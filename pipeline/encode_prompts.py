"""`python -m pipeline encode-prompts`: a text file of prompts becomes a small dataset, without a cluster.

Sampling and validation images need prompts that are encoded as the training captions are, and a trainer has no text
encoder: so this dataset is all it needs of them. Its group is `txt` and its shard `prompts`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from pipeline.caption_options import CaptionOptions, caption_identity, encoder_config
from pipeline.compute_dtype import slow_compute_warning
from pipeline.encoders import TextEncoder, load_encoder
from pipeline.job.finalize import Totals, finalize
from pipeline.job.lease import Lease
from pipeline.layout import choose_layout
from pipeline.presets import PRESETS, require_positive
from pipeline.prompts import PromptList, read_prompts
from pipeline.provenance import library_versions, new_run_id, now, save_config
from pipeline.shard_encoder import EngineSettings, ShardEncoder
from schemas.dataset import open_dataset
from schemas.errors import ConfigError
from schemas.identity import ENCODER_NAMES, CaptionIdentity, require_same
from schemas.ledger import Source, list_committed
from schemas.manifest import MANIFEST_PATH, Manifest, Provenance, create_or_require_same, read_manifest
from schemas.storage import Store

GROUP = "txt"
SHARD = "prompts"


@dataclass(frozen=True)
class _PromptsAndOutput:
    """First, as fields of later bases come first."""

    prompts: Path
    """Text file, UTF-8, one prompt a line; empty lines are left out."""

    output: str
    """The dataset: a folder or bucket URL, of its own for these prompts."""

    like: str | None = None
    """Dataset (folder or bucket URL) whose captions these prompts are to be used with: refuses options that would
    encode them otherwise, before anything is written."""


@dataclass(frozen=True)
class EncodePromptsConfig(CaptionOptions, _PromptsAndOutput):
    """Encode a text file of prompts, for sampling and validation images."""


def _preset(options: CaptionOptions) -> EncodePromptsConfig:
    shared = {field.name: getattr(options, field.name) for field in dataclasses.fields(CaptionOptions)}
    return EncodePromptsConfig(prompts=tyro.MISSING, output=tyro.MISSING, **shared)


PROMPT_PRESETS: dict[str, tuple[str, EncodePromptsConfig]] = {
    name: (text, _preset(config)) for name, (text, config) in PRESETS.items()
}
"""As those of `encode`: prompts are encoded as captions are."""


def run(config: EncodePromptsConfig) -> int:
    """Encodes the prompts, if they are not there already.

    Returns:
        Exit status 0.

    Raises:
        EncodeOnceError: The prompts, the options or the dataset cannot be used.
    """
    require_positive(config)
    samples = PromptList(read_prompts(config.prompts))
    dataset = Store(config.output)
    _require_own(dataset)
    # Prompts that are to fit a dataset compute as its captions did.
    captions = caption_identity(config, Store(config.like) if config.like is not None else dataset)
    if config.like is not None:
        like = Store(config.like)
        require_same(read_manifest(like).captions, captions, where=f"--like {like.locate(MANIFEST_PATH)}")
    run_id = new_run_id()
    manifest = create_or_require_same(dataset, _manifest(config, captions, dataset, run_id))
    with Lease(dataset, run_id) as lease:
        if SHARD in list_committed(dataset).get(GROUP, ()):
            _require_same_prompts(dataset, samples.prompts, config.prompts)
            print("Nothing to encode: these prompts are there.")
        else:
            save_config(config, dataset, run_id)
            _encode(config, samples, dataset, manifest, run_id)
        totals = finalize(dataset, [GROUP], lease.dead, collect_orphans=not lease.lost)
    _require_finite(totals, config.output)
    print(f"{totals.num_encoded:,} prompts in {config.output}, the last of them the empty one")
    return 0


def _encode(config: EncodePromptsConfig, samples: PromptList, dataset: Store, manifest: Manifest, run_id: str) -> None:
    device = _device(config)
    compute_dtypes = {manifest.captions.encoder(name).compute_dtype for name in ENCODER_NAMES}
    if warning := slow_compute_warning(compute_dtypes, device):
        print(f"! {warning}", flush=True)
    settings = EngineSettings(batch_tokens=config.batch_tokens)
    folder = Store(str(config.prompts.absolute().parent))
    name = torch.cuda.get_device_name() if device == "cuda" else device
    shards = ShardEncoder(folder, dataset, manifest, _load(config, manifest.captions, device), settings, run_id, name)
    info = folder.head(config.prompts.name)
    assert info is not None, "it was read just now"
    source = Source(url=folder.locate(config.prompts.name), num_bytes=info.num_bytes, e_tag=info.e_tag, damage=())
    result = shards.encode_group(samples, source, SHARD, GROUP, attempt=1)
    assert result.committed, "the lease keeps other writers away"


def _require_finite(totals: Totals, url: str) -> None:
    if totals.num_rejects:
        raise ConfigError(
            "prompts-not-finite",
            where=url,
            expected="finite outputs of every encoder for every prompt",
            actual=f"{totals.num_rejects} of {totals.num_inputs} prompts have others; see rejects/ in the dataset",
            remedy="encode to a new --output with --storage-dtype bfloat16",
        )


def _load(config: EncodePromptsConfig, captions: CaptionIdentity, device: str) -> dict[str, TextEncoder]:
    return {
        name: load_encoder(
            name,
            encoder_config(config, name),
            padding=config.padding,
            compute_dtype=captions.encoder(name).compute_dtype,
            storage_dtype=config.storage_dtype,
            device=device,
        )
        for name in ENCODER_NAMES
    }


def _device(config: EncodePromptsConfig) -> str:
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _manifest(config: EncodePromptsConfig, captions: CaptionIdentity, dataset: Store, run_id: str) -> Manifest:
    return Manifest(
        layout=choose_layout(config, dataset, captions, None),
        captions=captions,
        created=Provenance(run_id=run_id, time=now(), versions=library_versions()),
    )


def _require_own(dataset: Store) -> None:
    """Prompts among training captions would be trained on."""
    others = sorted(
        f"{group}/{shard}"
        for group, shards in list_committed(dataset).items()
        for shard in shards
        if (group, shard) != (GROUP, SHARD)
    )
    if others:
        raise ConfigError(
            "output-not-prompts",
            where=dataset.url,
            expected="no dataset, or one that encode-prompts made",
            actual=f"a dataset with {others[0]}" + (f" and {len(others) - 1} more" if others[1:] else ""),
            remedy="write the prompts to an --output of their own",
        )


def _require_same_prompts(dataset: Store, prompts: Sequence[str], path: Path) -> None:
    stored = [row.caption for row in open_dataset(dataset.url, "ledger").rows(GROUP, SHARD)]
    if stored == list(prompts):
        return
    shorter = min(len(stored), len(prompts))
    row = next((i for i, (a, b) in enumerate(zip(stored, prompts, strict=False)) if a != b), shorter)
    raise ConfigError(
        "prompts-differ",
        where=dataset.url,
        expected=f"no dataset, or one of the prompts in {path}",
        actual=f"a dataset of {len(stored) - 1} prompts that differ from the {len(prompts) - 1} of the file, "
        f"first at number {row}",
        remedy="a dataset of prompts is never changed: write other prompts to a new --output",
    )
