"""What a training run reads: its training samples, the held-out ones, and prompts for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from schemas.dataset import Dataset, open_dataset
from schemas.errors import ContractError
from schemas.identity import LatentIdentity
from trainer.distributed import Distributed
from trainer.presets import TrainConfig
from trainer.prompts import PromptEncoding, Prompts, open_prompts
from trainer.stream.batch import MicroBatch
from trainer.stream.loader import StreamLoader


@dataclass(frozen=True)
class Sources:
    """What a run reads.

    Attributes:
        stream: The training samples.
        holdout: The held-out samples; None for a run without.
        prompts: For pictures; None for a run without.
        latents: What the images are.
        encoding: How prompts become conditioning.
    """

    stream: StreamLoader
    holdout: StreamLoader | None
    prompts: Prompts | None
    latents: LatentIdentity
    encoding: PromptEncoding

    def placeholder(self) -> MicroBatch:
        """A sample of zeros, of the first picture size, for passes in which a rank has nothing to do."""
        layout, encoding = self.stream.layout, self.encoding
        return MicroBatch(
            torch.zeros(1, *self.latents.latent_shape(*self.latents.buckets[0]), device=encoding.device),
            torch.zeros(1, layout.num_tokens, layout.width, dtype=encoding.dtype, device=encoding.device),
            torch.zeros(1, layout.pooled_width, dtype=encoding.dtype, device=encoding.device),
            np.zeros(1, np.int64),
        )

    def close(self) -> None:
        """Ends the streams' threads."""
        for stream in (self.stream, self.holdout):
            if stream is not None:
                stream.close()


def open_sources(config: TrainConfig, distributed: Distributed) -> Sources:
    """Opens this rank's share of the datasets.

    Raises:
        EncodeOnceError: They cannot be read, do not fit together, or not the options.
    """
    datasets = [open_dataset(url) for url in config.data]
    use_empty = config.conditioning.left_out == "empty"
    prompts = None
    if config.prompts is not None:
        prompts = open_prompts(config.prompts, datasets[0].manifest.captions, need_empty=use_empty)
    stream = _open_stream(config, distributed, datasets, prompts, holdout=False)
    if stream.latent_identity is None:
        raise ContractError(
            "latents-missing",
            where=", ".join(config.data),
            expected="the group latents",
            actual="captions only",
            remedy="run the encode command with --latents on the same tars",
        )
    holdout = None
    if config.stream.holdout_rows:
        holdout = _open_stream(config, distributed, datasets, prompts, holdout=True)
    t5_tokens = stream.layout.slots["t5"].num_tokens
    encoding = PromptEncoding(t5_tokens, use_empty, config.parallel.torch_dtype, distributed.device)
    return Sources(stream, holdout, prompts, stream.latent_identity, encoding)


def _open_stream(
    config: TrainConfig,
    distributed: Distributed,
    datasets: Sequence[Dataset],
    prompts: Prompts | None,
    *,
    holdout: bool,
) -> StreamLoader:
    stream, conditioning = config.stream, config.conditioning
    if holdout:
        # As they lie, once, all of them, with all encoders: the loss is to depend on nothing but the weights.
        stream = replace(stream, shuffle=False, tail="pad")
        conditioning = replace(conditioning, dropout=(0.0, 0.0, 0.0))
    return StreamLoader(
        datasets,
        stream,
        conditioning,
        seed=config.seed,
        batch_size=config.batch_size_of_rank(distributed.world_size),
        rank=distributed.rank,
        world_size=distributed.world_size,
        device=distributed.device,
        dtype=config.parallel.torch_dtype,
        num_epochs=1 if holdout else None,
        empty=None if prompts is None else prompts.empty,
        holdout=holdout,
    )
