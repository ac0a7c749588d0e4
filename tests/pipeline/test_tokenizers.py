"""Token ids equal those of the reference implementations, truncation included, for any text."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Tokenizer
from transformers import CLIPTokenizer, T5TokenizerFast

from pipeline import tokenizers
from pipeline.tokenizers import (
    MAX_TOKENIZER_BYTES,
    CaptionTokenizer,
    HuggingFaceTokenizer,
    OpenClipTokenizer,
    load_huggingface_tokenizer,
)
from schemas.errors import ConfigError
from schemas.identity import EncoderName
from tests.checkpoints import (
    AWKWARD_CAPTIONS,
    write_clip_tokenizer,
    write_slow_clip_tokenizer,
    write_spiece_model,
    write_t5_tokenizer,
)

FRAGMENTS = [
    *(
        "a photo",
        " ",
        "!",
        "!!!",
        "  ",
        "\n",
        "&amp;",
        "“",
        "'s",
        "DOG",
        "雪",
        "🐕",
        "é",
        "e\u0301",
        "1234",
        "ſ",
        "İ",
        "Ã©",
    ),
    *("<|endoftext|>", "<|startoftext|>", "</s>", "<pad>", "<end_of_text>", "<start_of_text>", "\u200b"),
    "word " * 30,
    "x" * 300,
]
# Lone surrogates are no text: the reader of the tars rejects such captions.
CHARACTERS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
CAPTIONS = st.one_of(CHARACTERS, st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokenizers")
    write_clip_tokenizer(root / "clip")
    write_slow_clip_tokenizer(root / "clip_slow")
    write_clip_tokenizer(root / "clip_2", pad_token="!")
    write_slow_clip_tokenizer(root / "clip_2_slow", pad_token="!")
    write_t5_tokenizer(root / "t5")
    write_spiece_model(root / "spiece")
    return root


Pair = tuple[CaptionTokenizer, CLIPTokenizer | T5TokenizerFast]


@pytest.fixture(
    scope="module",
    params=[
        ("clip_l", "clip", 77, False),
        ("clip_l", "clip_slow", 20, False),
        ("clip_g", "clip_2", 77, True),
        ("clip_g", "clip_2_slow", 77, True),
        ("t5", "t5", 77, False),
        ("t5", "t5", 16, False),
        ("t5", "spiece", 32, False),
    ],
    ids=lambda param: f"{param[1]}-{param[2]}",
)
def pair(request: pytest.FixtureRequest, folders: Path) -> Pair:
    name, folder, max_tokens, as_pad = request.param
    reader = T5TokenizerFast if name == "t5" else CLIPTokenizer
    ours = load_huggingface_tokenizer(name, folders / folder, max_tokens=max_tokens, exclamation_as_pad=as_pad)
    return ours, reader.from_pretrained(folders / folder)


def assert_equal_to_huggingface(pair: Pair, captions: list[str]) -> None:
    ours, theirs = pair
    cut = theirs(captions, truncation=True, max_length=ours.max_tokens, padding="max_length")["input_ids"]
    whole = theirs(captions)["input_ids"]
    tokens = ours(captions)
    assert [[*ids, *[ours.pad_id] * (ours.max_tokens - len(ids))] for ids in map(list, tokens.ids)] == cut
    assert tokens.truncated.tolist() == [len(ids) > ours.max_tokens for ids in whole]
    assert all(ids.dtype == "int32" and ids[-1] == ours.eos_id for ids in tokens.ids)


def test_awkward_captions_equal_huggingface(pair: Pair) -> None:
    assert_equal_to_huggingface(pair, AWKWARD_CAPTIONS)


@given(captions=st.lists(CAPTIONS, min_size=1, max_size=4))
def test_any_caption_equals_huggingface(pair: Pair, captions: list[str]) -> None:
    assert_equal_to_huggingface(pair, captions)


def assert_equal_to_open_clip(ours: OpenClipTokenizer, captions: list[str]) -> None:
    reference = SIMPLE(captions, context_length=ours.max_tokens).tolist()
    tokens = ours(captions)
    assert [[*ids, *[0] * (ours.max_tokens - len(ids))] for ids in map(list, tokens.ids)] == reference
    assert tokens.truncated.tolist() == [len(SIMPLE.encode(caption)) + 2 > ours.max_tokens for caption in captions]


SIMPLE = SimpleTokenizer()
OPEN_CLIP = OpenClipTokenizer(max_tokens=77)
OPEN_CLIP_SHORT = OpenClipTokenizer(max_tokens=6)


def test_awkward_captions_equal_open_clip() -> None:
    assert_equal_to_open_clip(OPEN_CLIP, AWKWARD_CAPTIONS)
    assert OPEN_CLIP(["!"]).ids[0].tolist() == [49406, 256, 49407]
    assert OPEN_CLIP(["AT&amp;amp;T"]).ids[0].tolist() == OPEN_CLIP(["at&t"]).ids[0].tolist()


@given(captions=st.lists(CAPTIONS, min_size=1, max_size=4))
def test_any_caption_equals_open_clip(captions: list[str]) -> None:
    assert_equal_to_open_clip(OPEN_CLIP, captions)
    assert_equal_to_open_clip(OPEN_CLIP_SHORT, captions)


@given(seed=st.integers(0, 2**32), letters=st.sampled_from(["ab", "abcdefghinorst", "aé雪"]))
def test_long_words_equal_open_clip(seed: int, letters: str) -> None:
    """Past 256 bytes another implementation of the same merges takes over."""
    word = "".join(random.Random(seed).choices(letters, k=300))
    limited = OpenClipTokenizer.__new__(OpenClipTokenizer)
    limited.__dict__ = {**OPEN_CLIP.__dict__, "max_tokens": 1000}
    assert_equal_to_open_clip(limited, [word, word[:200]])


def test_open_clip_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "_OPEN_CLIP_CACHE_WORDS", 50)
    tokenizer = OpenClipTokenizer(max_tokens=77)
    for number in range(40):
        tokenizer([f"{chr(97 + number % 26)}{letter}{'q' * number}" for letter in "abcdefghij"])
        assert len(tokenizer._simple.cache) <= 50 + 10
    assert_equal_to_open_clip(tokenizer, ["<end_of_text> qqq"])


LONG = {
    "words": "lorem ipsum dolor " * 60_000,
    "one word": "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000)),
    "marks": "!?" * 500_000,
    "cjk": "雪の中の犬" * 70_000,
    "entities": "&amp;" * 200_000,
    "lines": "a\n" * 500_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_megabyte_captions_take_seconds_at_most(text: str, folders: Path) -> None:
    clip = load_huggingface_tokenizer("clip_l", folders / "clip", max_tokens=77, exclamation_as_pad=False)
    t5 = load_huggingface_tokenizer("t5", folders / "t5", max_tokens=77, exclamation_as_pad=False)
    for tokenizer in (clip, t5, OPEN_CLIP):
        started = time.process_time()
        tokens = tokenizer([text, "a dog"])
        assert time.process_time() - started < 20
        assert tokens.truncated.tolist() == [True, False]
        assert len(tokens.ids[0]) == 77


def test_a_prefix_that_is_too_short_is_not_believed(folders: Path) -> None:
    """Characters that a tokenizer drops may leave fewer ids in the prefix than the row holds."""
    tokenizer = load_huggingface_tokenizer("t5", folders / "t5", max_tokens=77, exclamation_as_pad=False)
    caption = "a b" + " " * 40_000 + "c d " + " dog" * 100
    assert tokenizer([caption]).ids[0].tolist() == tokenizer(["a b c d" + " dog" * 100]).ids[0].tolist()
    assert tokenizer(["a b" + " " * 40_000 + "c d"]).truncated.tolist() == [False]


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [("clip_l", "clip", 49407), ("clip_g", "clip", 0), ("clip_g", "clip_2", 0), ("t5", "t5", 0)],
)
def test_pad_ids_are_those_of_stable_diffusion_3(name: EncoderName, folder: str, expected: int, folders: Path) -> None:
    tokenizer = load_huggingface_tokenizer(name, folders / folder, max_tokens=77, exclamation_as_pad=False)
    assert tokenizer.pad_id == expected
    assert OpenClipTokenizer(max_tokens=77, pad_with_eos=True).pad_id == 49407


def test_digest_follows_the_rules_and_not_the_files(folders: Path) -> None:
    def digest(folder: str, **options: object) -> str:
        arguments = {"max_tokens": 77, "exclamation_as_pad": False, **options}
        return load_huggingface_tokenizer("clip_g", folders / folder, **arguments).digest

    assert digest("clip_slow") == digest("clip_2") == digest("clip_2_slow") == digest("clip", max_tokens=20)
    assert digest("clip_2", exclamation_as_pad=True) != digest("clip_2")
    assert OPEN_CLIP.digest == OPEN_CLIP_SHORT.digest != OpenClipTokenizer(max_tokens=77, clean="whitespace").digest


def test_a_folder_without_tokenizer_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError) as caught:
        load_huggingface_tokenizer("t5", tmp_path, max_tokens=77, exclamation_as_pad=False)
    assert caught.value.code == "tokenizer-unreadable"


@pytest.mark.parametrize(
    ("folder", "file"), [("clip", "tokenizer.json"), ("clip", "tokenizer_config.json"), ("clip_slow", "vocab.json")]
)
def test_a_file_too_large_for_a_tokenizer_is_not_read(folder: str, file: str, folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / folder, tmp_path / "clip")
    with open(tmp_path / "clip" / file, "ab") as opened:
        num_bytes = opened.tell()
        # White space behind the document: as JSON it is as good as before.
        opened.write(b" " * (MAX_TOKENIZER_BYTES - num_bytes))
    load_huggingface_tokenizer("clip_l", tmp_path / "clip", max_tokens=77, exclamation_as_pad=False)
    with open(tmp_path / "clip" / file, "ab") as opened:
        opened.write(b" ")
    with pytest.raises(ConfigError, match=f"{file} has {MAX_TOKENIZER_BYTES + 1} bytes") as caught:
        load_huggingface_tokenizer("clip_l", tmp_path / "clip", max_tokens=77, exclamation_as_pad=False)
    assert caught.value.code == "tokenizer-unreadable"


@pytest.mark.parametrize(("name", "folder"), [("clip_l", "t5"), ("t5", "clip")])
def test_a_tokenizer_of_another_family_is_refused(name: EncoderName, folder: str, folders: Path) -> None:
    with pytest.raises(ConfigError, match="tokenizer, not") as caught:
        load_huggingface_tokenizer(name, folders / folder, max_tokens=77, exclamation_as_pad=False)
    assert caught.value.code == "tokenizer-unreadable"


def test_a_tokenizer_that_does_not_end_with_eos_is_refused(folders: Path) -> None:
    document = json.loads((folders / "clip" / "tokenizer.json").read_text())
    backend = Tokenizer.from_str(json.dumps({**document, "post_processor": None}))
    without = HuggingFaceTokenizer(backend, max_tokens=77, pad_id=0, eos_id=49407)
    with pytest.raises(ConfigError) as caught:
        tokenizers._require_eos(without, folders)
    assert caught.value.code == "tokenizer-without-eos"
