"""Tars of captions and images on any store: which there are, and what each holds."""

from __future__ import annotations

from pipeline.sources.column_names import checked_columns
from pipeline.sources.inputs import Inputs, InputTar, list_inputs
from pipeline.sources.reject_codes import CAPTION_CODES, DAMAGE_CODES, IMAGE_CODES, MEMBER_CODES
from pipeline.sources.samples import TarScan, scan_tar

__all__ = [
    "CAPTION_CODES",
    "DAMAGE_CODES",
    "IMAGE_CODES",
    "MEMBER_CODES",
    "InputTar",
    "Inputs",
    "TarScan",
    "checked_columns",
    "list_inputs",
    "scan_tar",
]
