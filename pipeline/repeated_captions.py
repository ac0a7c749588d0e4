"""Captions that occur more than once in a shard are encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from pipeline.encoded import EncodedCaption


class RepeatedCaptions:
    """Tensors of captions that come again later in the shard, within a budget of bytes; least recently used go first.

    Args:
        repeated: Hashes of captions that occur more than once; a chance hit costs memory and nothing else.
        max_bytes: Bound on the tensors held.
    """

    def __init__(self, repeated: Iterable[int], max_bytes: int) -> None:
        self._repeated = frozenset(repeated)
        self._max_bytes = max_bytes
        self._held: OrderedDict[str, EncodedCaption] = OrderedDict()
        self._num_bytes = 0

    def get(self, caption: str) -> EncodedCaption | None:
        """The tensors of a caption, if they are still held."""
        if caption not in self._held:
            return None
        self._held.move_to_end(caption)
        return self._held[caption]

    def put(self, caption: str, encoded: EncodedCaption) -> None:
        """Holds a caption's tensors if it occurs more than once."""
        if hash(caption) not in self._repeated or caption in self._held:
            return
        self._held[caption] = {name: tensors.copy() for name, tensors in encoded.items()}
        self._num_bytes += sum(tensors.num_bytes for tensors in encoded.values())
        while self._num_bytes > self._max_bytes:
            _, dropped = self._held.popitem(last=False)
            self._num_bytes -= sum(tensors.num_bytes for tensors in dropped.values())
