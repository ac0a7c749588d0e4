"""Checks latents: encodes the images of rows again in float32, one at a time, and compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline.latents.images import CroppedImage
from pipeline.latents.options import VaeConfig
from pipeline.sources.caption_text import Fault
from pipeline.verification.comparison import Figures, compare
from pipeline.verification.reference import require_reference
from pipeline.verification.sampling import SampledLatents
from pipeline.verification.source_images import SourceImages
from schemas.identity import LatentComputeDtype, LatentIdentity, differences
from schemas.planes import STORAGE_DTYPES

LatentCause = Literal["rounding", "image", "pixels", "unknown"]


@dataclass(frozen=True)
class VaeOptions:
    """Where the autoencoder is, if not where the manifest says."""

    source: str | None = None
    """Hugging Face id or local folder. Default: the manifest's, at its revision."""

    revision: str | None = None
    """Branch, tag or commit of `source`."""

    subfolder: str | None = None
    """Folder inside the source that holds config.json and the weights; none = vae, or the source itself."""


@dataclass
class LatentResult:
    """How far one row of the group `latents` is from its image.

    Attributes:
        row: As drawn.
        figures: Of the whole tensor, as one vector; None where there is nothing to compare with.
        cause: Why it is not what it should be; None for a sound row. "image": the tar's image is another one, or is
            cropped otherwise. "pixels": of kind `pixels`, some values differ.
        text: The same, in a sentence's part.
    """

    row: SampledLatents
    figures: Figures | None
    cause: LatentCause | None = None
    text: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether it is what it should be."""
        return self.cause is None

    @property
    def cosine(self) -> float:
        """With float32; -1 where there is nothing to compare with."""
        return -1.0 if self.figures is None else self.figures.cosine


@dataclass(frozen=True)
class LatentCheck:
    """How latents are to be checked.

    Attributes:
        identity: The manifest's.
        options: Where the autoencoder is, if not where the manifest says.
        images: The tars.
        min_cosine: With float32, for a row to be near enough. Pixels must be equal.
        allow_differences: Whether to go on with an autoencoder that is not the manifest's.
        device: "cpu" or "cuda".
        where: The manifest's place.
        say: Called with what is being done.
    """

    identity: LatentIdentity
    options: VaeOptions
    images: SourceImages
    min_cosine: float
    allow_differences: bool
    device: str
    where: str
    say: Callable[[str], None]

    def run(self, rows: Sequence[SampledLatents]) -> tuple[list[LatentResult], list[str]]:
        """Checks rows.

        Args:
            rows: By shard and index.

        Returns:
            A result for each row, and the fields in which the autoencoder differs from the manifest's, if that is
            allowed.

        Raises:
            ConfigError: The autoencoder cannot be loaded.
            IdentityMismatchError: It is not the manifest's.
            MissingObjectError, DamagedDataError: A tar is not there, or not as it was.
        """
        encode: _Encode = _pixels_themselves
        lines: list[str] = []
        if self.identity.kind == "autoencoder_kl":
            self.say(f"latents: loading {self._vae.source} in float32")
            encode, lines = self._load("float32")
        self.say(f"latents: reading {len(rows)} images from {len({row.shard for row in rows})} tars, one at a time")
        results, far = list[LatentResult](), dict[int, npt.NDArray[np.uint8]]()
        for row, image in zip(rows, self.images.read(rows, self.identity), strict=True):
            results.append(self._compare(row, image, encode))
            if results[-1].cause == "unknown" and isinstance(image, CroppedImage):
                far[len(results) - 1] = image.pixels
        if far and self.identity.compute_dtype != "float32":
            self._find_rounding(results, far, encode)
        return results, lines

    def _compare(self, row: SampledLatents, image: CroppedImage | Fault, encode: _Encode) -> LatentResult:
        if isinstance(image, Fault):
            return LatentResult(row, None, "image", f"the tar's image cannot be decoded here: {image.reason}")
        stored, found = ((one.original_size, one.crop, one.size) for one in (row, image))
        if stored != found:
            return LatentResult(row, None, "image", f"original size, crop, size: {stored} stored, {found} in the tar")
        expected = encode(image.pixels)
        figures = compare(row.stored.ravel(), expected.ravel())
        if self.identity.kind == "pixels":
            levels = np.abs(row.stored.astype(np.int64) - expected.astype(np.int64))
            text = f"{(levels > 0).mean():.2%} of the values differ, by up to {levels.max()} levels"
            return LatentResult(row, figures, "pixels", text) if levels.any() else LatentResult(row, figures)
        if figures.is_within(self.min_cosine):
            return LatentResult(row, figures)
        return LatentResult(row, figures, "unknown", "not what the autoencoder makes of this image")

    def _find_rounding(
        self, results: list[LatentResult], far: dict[int, npt.NDArray[np.uint8]], encode: _Encode
    ) -> None:
        """Marks the rows that are about as far from float32 as the manifest's dtypes leave them."""
        dtype = self.identity.compute_dtype
        rounded, _ = self._load(dtype)
        for index, pixels in far.items():
            usual = compare(
                rounded(pixels).astype(STORAGE_DTYPES[self.identity.storage_dtype]).ravel(), encode(pixels).ravel()
            )
            figures = results[index].figures
            if figures is not None and figures.is_rounding_like(usual):
                results[index].cause, results[index].text = "rounding", f"as far from float32 as {dtype} computed here"

    @property
    def _vae(self) -> VaeConfig:
        options, identity = self.options, self.identity
        if options.source is not None:
            return VaeConfig(options.source, options.revision, options.subfolder)
        return VaeConfig(identity.source, options.revision or identity.revision, options.subfolder)

    def _load(self, compute_dtype: LatentComputeDtype) -> tuple[_Encode, list[str]]:
        # Here, so that pixels need no diffusers.
        from pipeline.latents.autoencoder import LatentEncoder, find_autoencoder

        found = find_autoencoder(self._vae)
        encoder = LatentEncoder(found, compute_dtype, self.device)
        names = ("architecture", "num_channels", "downscale_factor", "shift_factor", "scaling_factor")
        actual: dict[str, Any] = {name: getattr(found, name) for name in names}
        actual["weights_sha256"] = encoder.weights_sha256
        lines = differences(self.identity, self.identity.model_copy(update=actual))
        shapes = ("num_channels", "downscale_factor")
        lines = require_reference(
            [f"vae.{line}" for line in lines],
            self._vae.source,
            ("--vae.source", "--vae.revision", "--vae.subfolder"),
            comparable=all(getattr(self.identity, name) == actual[name] for name in shapes),
            allowed=self.allow_differences,
            where=f"latents in {self.where}",
        )

        def encode(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.generic]:
            latents: npt.NDArray[np.float32] = (
                encoder.encode(torch.from_numpy(pixels)[None].to(self.device))[0].cpu().numpy()
            )
            return latents

        return encode, lines


_Encode = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.generic]]


def _pixels_themselves(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.generic]:
    return pixels
