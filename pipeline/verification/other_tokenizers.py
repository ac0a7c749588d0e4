"""Tokenizers that a CLIP's captions may have been encoded with by mistake: of the same vocabulary, by other rules."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

from tokenizers import Tokenizer

from pipeline.encoders.demo_weights import clip_tokenizer
from pipeline.tokenizers import CaptionTokenizer, HuggingFaceTokenizer, OpenClipTokenizer
from schemas.identity import EncoderIdentity

_CLIP_VOCABULARY = 49408


def other_tokenizers(identity: EncoderIdentity) -> Iterator[tuple[str, CaptionTokenizer]]:
    """What each is, and the tokenizer; the manifest's own may be among them. None for T5 and other vocabularies."""
    if not _is_clip(identity):
        return
    yield "open_clip's tokenizer", _open_clip(identity.max_tokens)
    yield "the Hugging Face tokenizer", _hugging_face("<|endoftext|>", identity.max_tokens)
    yield 'a tokenizer that takes "!" for padding', _hugging_face("!", identity.max_tokens)


def long_tokenizer(identity: EncoderIdentity) -> CaptionTokenizer | None:
    """A CLIP's own kind of tokenizer, keeping more tokens than it has positions; None where it is not known."""
    if not _is_clip(identity):
        return None
    made = _open_clip if identity.tokenizer == "open_clip" else partial(_hugging_face, "<|endoftext|>")
    return made(max_tokens=2 * identity.max_tokens)


def _is_clip(identity: EncoderIdentity) -> bool:
    return identity.name != "t5" and identity.architecture.get("vocab_size") == _CLIP_VOCABULARY


@cache
def _open_clip(max_tokens: int) -> CaptionTokenizer:
    return OpenClipTokenizer(max_tokens=max_tokens)


@cache
def _hugging_face(pad_token: str, max_tokens: int) -> CaptionTokenizer:
    made = clip_tokenizer(pad_token)
    backend = Tokenizer.from_str(made.backend_tokenizer.to_str())
    return HuggingFaceTokenizer(backend, max_tokens=max_tokens, pad_id=0, eos_id=made.eos_token_id)
