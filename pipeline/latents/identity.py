"""What decides the values of the group `latents`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.encoders.towers import digest_weights
from pipeline.latents.buckets import make_buckets
from pipeline.latents.images import RESAMPLE
from pipeline.latents.options import LatentOptions, require_sound
from schemas.identity import LatentComputeDtype, LatentIdentity

if TYPE_CHECKING:
    from pipeline.latents.autoencoder import Autoencoder, LatentEncoder


def describe_latents(options: LatentOptions, compute_dtype: LatentComputeDtype) -> LatentIdentity:
    """Identity of the latents that these options make; reads the autoencoder's weights once for their digest.

    Args:
        options: As the user gave them.
        compute_dtype: Of the autoencoder, resolved; pixels have none and ignore it.

    Raises:
        ConfigError: The autoencoder cannot be found or used, or the options do not fit together.
    """
    require_sound(options)
    if options.latents == "pixels":
        return _pixels(options)
    # Here, so that pixels need no diffusers.
    from pipeline.latents.autoencoder import find_autoencoder

    found = find_autoencoder(options.vae)
    # Before gigabytes are read.
    make_buckets(options.images, found.downscale_factor)
    return _latents(options, found, digest_weights(found, found.tensors), compute_dtype)


def load_latents(
    options: LatentOptions, compute_dtype: LatentComputeDtype, device: str
) -> tuple[LatentIdentity, LatentEncoder | None]:
    """The identity as `describe_latents` gives it, and the encoder on its device; None for pixels.

    Raises:
        ConfigError: As `describe_latents`.
    """
    if options.latents == "pixels":
        return describe_latents(options, compute_dtype), None
    from pipeline.latents.autoencoder import LatentEncoder, find_autoencoder

    require_sound(options)
    found = find_autoencoder(options.vae)
    encoder = LatentEncoder(found, compute_dtype, device)
    return _latents(options, found, encoder.weights_sha256, compute_dtype), encoder


def _latents(
    options: LatentOptions, found: Autoencoder, weights_sha256: str, compute_dtype: LatentComputeDtype
) -> LatentIdentity:
    images = options.images
    return LatentIdentity(
        kind="autoencoder_kl",
        source=options.vae.source,
        revision=found.revision,
        weights_sha256=weights_sha256,
        architecture=found.architecture,
        num_channels=found.num_channels,
        downscale_factor=found.downscale_factor,
        shift_factor=found.shift_factor,
        scaling_factor=found.scaling_factor,
        posterior="mode",
        resolution=images.resolution,
        crop=images.crop,
        buckets=make_buckets(images, found.downscale_factor),
        resample=RESAMPLE,
        compute_dtype=compute_dtype,
        storage_dtype=options.vae.storage_dtype,
    )


def _pixels(options: LatentOptions) -> LatentIdentity:
    images = options.images
    return LatentIdentity(
        kind="pixels",
        source="pixels",
        revision=None,
        weights_sha256=None,
        architecture={},
        num_channels=3,
        downscale_factor=1,
        shift_factor=0.0,
        scaling_factor=1.0,
        posterior=None,
        resolution=images.resolution,
        crop=images.crop,
        buckets=make_buckets(images, 1),
        resample=RESAMPLE,
        compute_dtype="float32",
        storage_dtype="uint8",
    )
