"""The list of what is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["ours", "part of ours", "documented", "tuned"]


@dataclass(frozen=True)
class Loader:
    """One row of the table.

    Attributes:
        name: In the table.
        module: Below `benchmarks.loader`.
        batches: Its function.
        files: Folder of its files in the data folder.
        kind: ours; part of ours: up to a point before the assembled batch; documented: as the library's documentation
            shows it; tuned: with this project's way of assembling batches given to it.
    """

    name: str
    module: str
    batches: str
    files: str
    kind: Kind

    @property
    def comparable(self) -> bool:
        """Whether it gives batches whose values can be compared."""
        return self.batches not in ("decoded_batches", "level_1_batches")

    @property
    def is_peer(self) -> bool:
        """Whether it runs in the environment of the other loaders."""
        return self.kind in ("documented", "tuned")


_PEERS = {
    "npz": ("one .npz a caption", "", ""),
    "hf_datasets": ("Hugging Face datasets", "arrays", "packed"),
    "mosaicml": ("mosaicml-streaming", "arrays", "packed"),
    "lit": ("litdata", "tensors", "packed"),
    "web": ("webdataset", "arrays", "packed"),
}
FORMATS = ("ours", *(f"peers.{name}" for name in _PEERS))
"""Modules with a `write`; its files are in a folder of the module's name."""

LOADERS = (
    Loader("encode-once", "ours", "batches", "ours", "ours"),
    Loader("encode-once, planes for a GPU to merge", "ours", "staged_batches", "ours", "part of ours"),
    Loader("encode-once, decoding alone", "ours", "decoded_batches", "ours", "part of ours"),
    Loader(
        "the same chunks as Arrow compresses them, decoding alone", "ours", "level_1_batches", "ours", "part of ours"
    ),
    *(
        Loader(title, f"peers.{name}", "documented_batches", f"peers.{name}/{documented}", "documented")
        for name, (title, documented, _) in _PEERS.items()
    ),
    *(
        Loader(f"{title}, our assembly", f"peers.{name}", "batches", f"peers.{name}/{packed}", "tuned")
        for name, (title, _, packed) in _PEERS.items()
    ),
)
