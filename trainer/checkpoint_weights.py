"""The trained model out of a checkpoint, for sampling and export: in one process, whatever number of ranks wrote it."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models import SD3Transformer2DModel

from trainer.checkpoint_document import read_model_config
from trainer.checkpoint_folder import open_checkpoint, verify_files
from trainer.checkpoint_tensors import read_tensors


def load_model(
    folder: Path, *, ema: bool = True, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> SD3Transformer2DModel:
    """The model of a step folder, in eval mode.

    Args:
        folder: A step folder (`trainer.checkpoint_folder.find_checkpoint`).
        ema: The moving average of the weights, where the run kept one; otherwise the weights of the last step.
        dtype: Of its parameters.
        device: Where to put it.

    Raises:
        DamagedDataError: A file is not what was written.
    """
    document = open_checkpoint(folder)
    verify_files(folder, document.files)
    with torch.device("meta"):
        model = SD3Transformer2DModel.from_config(read_model_config(folder))
    averaged = {name for name, _ in model.named_parameters()} if ema and document.has_ema else set()
    tensors = {
        f"ema.{name}" if name in averaged else f"model.{name}": torch.empty_like(tensor, device="cpu", dtype=dtype)
        for name, tensor in model.state_dict().items()
    }
    read_tensors(folder, tensors, group=None)
    model.load_state_dict({name.partition(".")[2]: tensor for name, tensor in tensors.items()}, assign=True)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    return model.to(device).eval().requires_grad_(False)
