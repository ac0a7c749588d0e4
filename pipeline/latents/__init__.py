"""Images become the column group `latents`: an autoencoder's latents, or the cropped pixels themselves.

options.py       what a user says
buckets.py       which sizes images are cropped to
pixel_budget.py  how many pixels are decoded at a time
images.py        from the bytes of a file to cropped pixels
autoencoder.py   AutoencoderKL, from whatever files the user has
group_norm.py    its norms on a GPU, fused with what follows them
identity.py      what decides the values, and the encoder that goes with it
engine.py        windows of images in, latents on the host out
groups.py        a shard's images, read, decoded, encoded and packed
"""

from __future__ import annotations

from pipeline.latents.identity import describe_latents, load_latents
from pipeline.latents.options import LatentOptions

__all__ = ["LatentOptions", "describe_latents", "load_latents"]
