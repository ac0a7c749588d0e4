"""The three frozen text encoders, from whatever files the user has to `hidden`, `pooled` and `eos`.

config.py            what a user says about one encoder
file_trees.py        files of a local folder or a Hugging Face repository
weight_files.py      which files hold the weights
checkpoints.py       finding the layout
tensor_files.py      reading tensors one at a time; their digest
towers.py            a module without weights, checked against the tensors, and filling it
clip_huggingface.py  clip_open_clip.py  t5.py      the architectures: from a library's module to a tower of ours
packed.py            captions side by side without padding, what the towers compute on
clip_tower.py  t5_tower.py                         the towers
operations.py  attention.py  kernels.py            their operations: torch's, and Triton kernels on CUDA
linear.py  float8.py                               their products
base.py              a tower with its tokenizer and identity
find_tokenizer.py    the tokenizer that belongs to a checkpoint
load.py              all of it together
demo_weights.py      small random encoders in real layouts
"""

from __future__ import annotations

from pipeline.encoders.base import EncoderOutput, TextEncoder, pad_token_ids
from pipeline.encoders.config import EncoderConfig
from pipeline.encoders.load import describe_encoder, load_encoder

__all__ = ["EncoderConfig", "EncoderOutput", "TextEncoder", "describe_encoder", "load_encoder", "pad_token_ids"]
