"""What one writes without this project: Ray Data, padded forwards, a `.npy` file of each tensor.

    python -m benchmarks.encode.ray_data_job TARS MODELS OUTPUT --batch-size 16 --threads 2

Captions are read from the tars with Python's tarfile, encoded by one actor that has all cores for its products, padded
to 77 tokens, without a mask, and stored as float16, which is what NumPy has of two bytes.
"""

from __future__ import annotations

import argparse
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

_MAX_TOKENS = 77


class EncodeAndSave:
    """Encodes a batch and writes its files."""

    def __init__(self, models: str, output: str, dtype: str, threads: int) -> None:
        from transformers import AutoTokenizer, CLIPTextModelWithProjection, T5EncoderModel

        torch.set_num_threads(threads)
        kinds = {"clip_l": CLIPTextModelWithProjection, "clip_g": CLIPTextModelWithProjection, "t5": T5EncoderModel}
        self._tokenizers = {name: AutoTokenizer.from_pretrained(f"{models}/{name}") for name in kinds}
        self._models = {
            name: kind.from_pretrained(f"{models}/{name}", dtype=getattr(torch, dtype)).eval()
            for name, kind in kinds.items()
        }
        self._output = Path(output)

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Gives the keys alone: tensors go to files, not through Ray."""
        captions, tensors = list(batch["caption"]), {}
        for name, model in self._models.items():
            ids = self._tokenizers[name](
                captions, padding="max_length", max_length=_MAX_TOKENS, truncation=True, return_tensors="pt"
            ).input_ids
            if name == "t5":
                tensors["t5"] = model(ids).last_hidden_state
                continue
            found = model(ids, output_hidden_states=True)
            tensors[name], tensors[f"{name}.pooled"] = found.hidden_states[-2], found.text_embeds
        arrays = {name: tensor.to(torch.float16).numpy() for name, tensor in tensors.items()}
        for row, key in enumerate(batch["key"]):
            for name, array in arrays.items():
                np.save(self._output / f"{key}.{name}.npy", array[row])
        return {"key": batch["key"]}


def read_tar(row: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Keys and captions of a tar."""
    with tarfile.open(row["path"]) as tar:
        for member in tar:
            if member.name.endswith(".txt"):
                file = tar.extractfile(member)
                assert file is not None
                yield {"key": Path(member.name).stem, "caption": file.read().decode()}


def main() -> None:
    import ray

    from pipeline.job.cluster import connect

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tars", type=Path)
    parser.add_argument("models")
    parser.add_argument("output", type=Path)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    with connect("local", num_cpus=options.threads, num_gpus=0, log_to_driver=False):
        ray.data.DataContext.get_current().enable_progress_bars = False
        tars = [{"path": str(path)} for path in sorted(options.tars.glob("*.tar"))]
        encoded = (
            ray.data.from_items(tars)
            # Reading takes next to nothing; the actor's threads are not bound to what it asks of Ray.
            .flat_map(read_tar, num_cpus=0.25)
            .map_batches(
                EncodeAndSave,
                fn_constructor_args=(options.models, str(options.output), options.dtype, options.threads),
                batch_size=options.batch_size,
                compute=ray.data.ActorPoolStrategy(size=1),
                num_cpus=max(1, options.threads - 1),
            )
        )
        print(sum(len(batch["key"]) for batch in encoded.iter_batches(batch_size=None)))


if __name__ == "__main__":
    main()
