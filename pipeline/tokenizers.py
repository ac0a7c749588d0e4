"""Captions in, token ids out: one call for the two tokenizer families the three encoders are used with.

- `HuggingFaceTokenizer`: the files a Hugging Face folder holds, read by the transformers class that diffusers uses, and
  run on the Rust tokenizer underneath. Its ids equal `tokenizer(caption, truncation=True, max_length=...)`.
- `OpenClipTokenizer`: `open_clip.tokenizer.SimpleTokenizer`, which also cleans the text (mojibake, HTML entities,
  white space, case). It is what OpenCLIP models were trained with, and the default beside open_clip weights.

Both cut here, not in the library: the kept ids are the first `max_tokens - 1` and EOS. A literal special string in a
caption ("<|endoftext|>", "</s>") becomes that special id, as the reference implementations have it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import CLIPTokenizer, T5TokenizerFast

from schemas.errors import ConfigError
from schemas.identity import EncoderName

# A caption longer than this is cut to a prefix before it is tokenized (see `_prefix`); 16,384 characters hold more than
# 77 tokens in any text that has a space to cut at.
_LONG_CAPTION_CHARS = 16_384
_CHARS_PER_TOKEN = 64
# One white space between two ASCII letters or digits: no normalizer, pre-tokenizer or merge reaches across it.
_SAFE_CUT = re.compile(r"(?<=[A-Za-z0-9])[ \n\t](?=[A-Za-z0-9])")
# Words up to this many bytes go through open_clip's own BPE, whose time grows with the square of the length.
_OPEN_CLIP_WORD_BYTES = 256
_OPEN_CLIP_CACHE_WORDS = 200_000
MAX_TOKENIZER_BYTES = 32 * 1024**2
"""Largest file of a tokenizer that is read. CLIP's and T5's have up to 4 MB."""
_TOKENIZER_FILES = (
    "tokenizer",
    "vocab",
    "merges",
    "spiece",
    "special_tokens",
    "added_tokens",
    "chat_template",
    "config",
)
"""How the names begin of what transformers reads beside a tokenizer."""


@dataclass(frozen=True)
class TokenizedCaptions:
    """Ids of a batch of captions.

    Attributes:
        ids: One int32 array [num_tokens] a caption, unpadded, BOS (where the tokenizer has one) and EOS included,
            1 <= num_tokens <= max_tokens.
        truncated: bool [B], true where tokens were cut.
    """

    ids: list[np.ndarray]
    truncated: np.ndarray


class CaptionTokenizer(ABC):
    """Turns captions into ids the encoder understands.

    Attributes:
        library: Which implementation makes the ids, as recorded in the identity.
        max_tokens: Most ids kept of a caption, BOS and EOS included.
        pad_id: Id that fills a row up to the length of its batch.
        eos_id: Id of the end token.
        vocab_size: Number of ids; every id is below it.
        digest: sha256 hex of vocabulary, merges and rules.
    """

    library: Literal["transformers", "open_clip"]

    def __init__(self, *, max_tokens: int, pad_id: int, eos_id: int, vocab_size: int, digest: str) -> None:
        self.max_tokens = max_tokens
        self.pad_id = pad_id
        self.eos_id = eos_id
        self.vocab_size = vocab_size
        self.digest = digest

    def __call__(self, captions: Sequence[str]) -> TokenizedCaptions:
        """Tokenizes captions; an empty one gives BOS and EOS only."""
        rows = self._tokenize(captions)
        truncated = np.array([len(row) > self.max_tokens for row in rows], dtype=bool)
        ids = [np.array(self._cut(row), dtype=np.int32) for row in rows]
        return TokenizedCaptions(ids=ids, truncated=truncated)

    @abstractmethod
    def _tokenize(self, captions: Sequence[str]) -> list[list[int]]:
        """Ids with BOS and EOS; a row of more than `max_tokens` ids may be any over-long prefix of the caption's."""

    def _cut(self, row: list[int]) -> list[int]:
        return row if len(row) <= self.max_tokens else [*row[: self.max_tokens - 1], self.eos_id]


class HuggingFaceTokenizer(CaptionTokenizer):
    """A Rust `tokenizers` pipeline; its digest is the sha256 of its JSON document, without truncation and padding."""

    library: Literal["transformers", "open_clip"] = "transformers"

    def __init__(self, backend: Tokenizer, *, max_tokens: int, pad_id: int, eos_id: int) -> None:
        self._backend = backend
        backend.no_truncation()
        backend.no_padding()
        # A prefix may be tokenized alone only if no added token could lie across the cut.
        added = backend.get_added_tokens_decoder().values()
        self._may_cut = not any(_SAFE_CUT.search(token.content) for token in added)
        super().__init__(
            max_tokens=max_tokens,
            pad_id=pad_id,
            eos_id=eos_id,
            vocab_size=max(self._backend.get_vocab(with_added_tokens=True).values()) + 1,
            digest=hashlib.sha256(backend.to_str().encode()).hexdigest(),
        )

    def _tokenize(self, captions: Sequence[str]) -> list[list[int]]:
        texts = [self._prefix(caption) for caption in captions]
        rows = [encoding.ids for encoding in self._backend.encode_batch_fast(texts)]
        for index, (caption, text) in enumerate(zip(captions, texts, strict=True)):
            if len(text) < len(caption) and len(rows[index]) <= self.max_tokens:
                rows[index] = self._backend.encode(caption).ids
        return rows

    def _prefix(self, caption: str) -> str:
        """A prefix that tokenizes to the same first ids: a caption of 1 MB costs 1-2 s and 260 MB otherwise."""
        limit = max(_LONG_CAPTION_CHARS, _CHARS_PER_TOKEN * self.max_tokens)
        if len(caption) <= limit or not self._may_cut:
            return caption
        cut = _SAFE_CUT.search(caption, limit)
        return caption[: cut.start()] if cut else caption


class OpenClipTokenizer(CaptionTokenizer):
    """open_clip's tokenizer, with its memory bounded and its time linear in the length of a caption.

    Args:
        max_tokens: Most ids kept of a caption, BOS and EOS included.
        clean: open_clip's name for the cleaning rules; 'lower' is what the CLIP models were trained with.
        pad_with_eos: Pad with EOS, as CLIP-L has it, instead of 0.
    """

    library: Literal["transformers", "open_clip"] = "open_clip"

    def __init__(self, *, max_tokens: int, clean: str = "lower", pad_with_eos: bool = False) -> None:
        self._simple = SimpleTokenizer(clean=clean)
        self._first_cache = dict(self._simple.cache)
        merges = list(self._simple.bpe_ranks)
        self._bpe = BPE(vocab=self._simple.encoder, merges=merges, end_of_word_suffix="</w>")
        rules = ["open_clip", clean, self._simple.pat.pattern, self._simple.encoder, merges]
        eos_id = self._simple.eot_token_id
        super().__init__(
            max_tokens=max_tokens,
            pad_id=eos_id if pad_with_eos else 0,
            eos_id=eos_id,
            vocab_size=self._simple.vocab_size,
            digest=hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest(),
        )

    def _tokenize(self, captions: Sequence[str]) -> list[list[int]]:
        # open_clip's cache of words has no bound; made-up words in web captions would fill the memory.
        if len(self._simple.cache) > _OPEN_CLIP_CACHE_WORDS:
            self._simple.cache = dict(self._first_cache)
        return [self._tokenize_one(caption) for caption in captions]

    def _tokenize_one(self, caption: str) -> list[int]:
        # Every word gives at least one id, so `max_tokens` words are enough to fill the row and to know that it is cut.
        words = self._simple.pat.finditer(self._simple.clean_fn(caption))
        ids = [self._simple.sot_token_id]
        for word in itertools.islice(words, self.max_tokens):
            ids += self._word_ids(word.group())
            if len(ids) >= self.max_tokens:
                break
        return [*ids, self._simple.eot_token_id]

    def _word_ids(self, word: str) -> list[int]:
        symbols = "".join(self._simple.byte_encoder[byte] for byte in word.encode())
        if len(symbols) <= _OPEN_CLIP_WORD_BYTES:
            return [self._simple.encoder[token] for token in self._simple.bpe(symbols).split(" ")]
        return [token.id for token in self._bpe.tokenize(symbols)]


def load_huggingface_tokenizer(
    name: EncoderName, folder: Path, *, max_tokens: int, exclamation_as_pad: bool
) -> HuggingFaceTokenizer:
    """Reads the tokenizer files of a folder with the class diffusers uses for this encoder.

    Padding ids are those of Stable Diffusion 3: EOS for CLIP-L, 0 for CLIP-G, the tokenizer's own for T5.

    Args:
        name: Which encoder the ids are for.
        folder: Holds tokenizer.json, or vocab.json and merges.txt, or spiece.model.
        max_tokens: Most ids kept of a caption.
        exclamation_as_pad: Leave a CLIP tokenizer exactly as stored, as diffusers does, its pad token included. The
            tokenizer_2 of Stable Diffusion 3 then turns every literal "!" into its pad id 0. Otherwise "!" is text.

    Raises:
        ConfigError: The files cannot be read, or the tokenizer does not end its rows with EOS.
    """
    reader = T5TokenizerFast if name == "t5" else CLIPTokenizer
    try:
        _require_bounded(folder)
        _require_model(folder / "tokenizer.json", reader.model.__name__)
        tokenizer = reader.from_pretrained(str(folder), local_files_only=True)
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    except Exception as error:
        raise ConfigError(
            "tokenizer-unreadable",
            where=str(folder),
            expected=f"tokenizer files that {reader.__name__} reads",
            actual=f"{type(error).__name__}: {error}",
            remedy=f"point --{name.replace('_', '-')}.tokenizer at a folder with the encoder's tokenizer files",
        ) from error
    if name != "t5" and not exclamation_as_pad:
        backend = _with_exclamation_as_text(backend)
    own_pad = tokenizer.pad_token_id if name == "t5" or exclamation_as_pad else None
    pad_id = own_pad if own_pad is not None else (tokenizer.eos_token_id if name == "clip_l" else 0)
    loaded = HuggingFaceTokenizer(backend, max_tokens=max_tokens, pad_id=pad_id, eos_id=tokenizer.eos_token_id)
    _require_eos(loaded, folder)
    return loaded


def _with_exclamation_as_text(backend: Tokenizer) -> Tokenizer:
    """The same tokenizer without "!" among its special tokens, where it is one."""
    if all(token.content != "!" for token in backend.get_added_tokens_decoder().values()):
        return backend
    document = json.loads(backend.to_str())
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] != "!"]
    return Tokenizer.from_str(json.dumps(document, ensure_ascii=False))


def _require_bounded(folder: Path) -> None:
    """Refuses files that are too large for a tokenizer's: libraries read them whole, and take many times their size."""
    for file in folder.iterdir():
        if file.name.startswith(_TOKENIZER_FILES) and (num_bytes := file.stat().st_size) > MAX_TOKENIZER_BYTES:
            raise ValueError(f"{file.name} has {num_bytes} bytes, more than {MAX_TOKENIZER_BYTES}")


def _require_model(file: Path, kind: str) -> None:
    """Refuses a tokenizer.json of another family, which transformers would take apart and rebuild as nonsense."""
    if file.is_file():
        actual = type(Tokenizer.from_file(str(file)).model).__name__
        if actual != kind:
            raise ValueError(f"{file.name} is a {actual} tokenizer, not {kind}")


def _require_eos(tokenizer: HuggingFaceTokenizer, folder: Path) -> None:
    empty, letter = (row.tolist() for row in tokenizer(["", "a"]).ids)
    if [empty[-1:], letter[-1:]] != [[tokenizer.eos_id]] * 2 or letter[: len(empty) - 1] != empty[:-1]:
        raise ConfigError(
            "tokenizer-without-eos",
            where=str(folder),
            expected=f"rows that end with one EOS (id {tokenizer.eos_id})",
            actual=f"an empty caption gives {empty}, 'a' gives {letter}",
            remedy="use the tokenizer files published with the encoder",
        )
