"""What a user says about the images of the tars, and what is stored of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.errors import ConfigError
from schemas.identity import StorageDtype

LatentChoice = Literal["none", "autoencoder_kl", "pixels"]
LatentComputeDtypeOption = Literal["auto", "float32", "bfloat16"]
Crop = Literal["center", "buckets"]


@dataclass(frozen=True)
class ImageConfig:
    """Which part of an image is used, and at which size."""

    resolution: int = 512
    """Pixels: images have resolution x resolution, or a bucket of about as many. Part of the identity."""

    crop: Crop = "center"
    """center: a square from the middle of every image. buckets: a rectangle from its middle, of the shape among several
    that is nearest to the image's own. Part of the identity."""

    bucket_step: int = 64
    """Pixels: the sides of buckets are multiples of it."""

    max_aspect: float = 2.0
    """Longer side over shorter side of the most oblong bucket."""

    max_upscale: float = 2.0
    """An image that would have to be enlarged by more than this factor to cover its crop is a reject
    (image-too-small). 1 refuses every enlargement."""

    max_pixels: int = 64_000_000
    """An image of more pixels is a reject (image-too-large), before it is decoded."""


@dataclass(frozen=True)
class VaeConfig:
    """The autoencoder: diffusers' AutoencoderKL. Its encoder alone is read."""

    source: str = "stabilityai/stable-diffusion-3-medium-diffusers"
    """Hugging Face id or local folder, of the autoencoder or of a whole Stable Diffusion repository."""

    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id; none = main. The resolved commit is recorded."""

    subfolder: str | None = None
    """Folder inside the source that holds config.json and the weights; none = vae, or the source itself."""

    compute_dtype: LatentComputeDtypeOption = "auto"
    """What it computes in. auto: what the dataset has; in a new one bfloat16 on a GPU and on a processor with bfloat16
    instructions, otherwise float32. bfloat16 is several times faster and leaves a relative error of about 2 %, which
    `verify` reports. There is no float16: Stable Diffusion 3's overflows in it. Part of the identity."""

    storage_dtype: StorageDtype = "bfloat16"
    """What is stored. Part of the identity."""

    batch_size: int | None = None
    """Images encoded at a time. Default: those that have 4 megapixels together on a GPU, 1/4 on the CPU; at least 1."""


@dataclass(frozen=True)
class LatentOptions:
    """What is stored of the images."""

    latents: LatentChoice = "none"
    """Encode the images too (jpg, jpeg, png, webp), as the group `latents`. autoencoder_kl (or --latents alone): with
    --vae.source. pixels: the resized images as they are. With --columns and nothing after it, images alone: no text
    encoder is loaded. EXIF orientation is applied, transparency put on white, colour profiles are ignored."""

    images: ImageConfig = ImageConfig()
    """How images are resized and cropped."""

    vae: VaeConfig = VaeConfig()
    """The autoencoder."""


def require_sound(options: LatentOptions) -> None:
    """Refuses numbers that mean nothing.

    Raises:
        ConfigError: Code `option-out-of-range`.
    """
    images, vae = options.images, options.vae
    least = {
        "--images.resolution": (images.resolution, 1),
        "--images.bucket-step": (images.bucket_step, 1),
        "--images.max-aspect": (images.max_aspect, 1),
        "--images.max-pixels": (images.max_pixels, 1),
        "--images.max-upscale": (images.max_upscale, 1),
        "--vae.batch-size": (1 if vae.batch_size is None else vae.batch_size, 1),
    }
    for name, (value, bound) in least.items():
        if not value >= bound:
            raise ConfigError(
                "option-out-of-range",
                where=name,
                expected=f"at least {bound}",
                actual=str(value),
                remedy="choose one, or leave the option out",
            )
