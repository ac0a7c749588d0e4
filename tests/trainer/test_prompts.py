"""Prompts are refused unless they were encoded as the training captions were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.encode_prompts import GROUP as WRITTEN_GROUP
from pipeline.prompts import EMPTY_KEY as WRITTEN_EMPTY_KEY
from schemas.errors import ConfigError, ContractError, IdentityMismatchError, MissingObjectError
from schemas.identity import ENCODER_NAMES
from tests.datasets import MAX_TOKENS, Sample, make_identity, make_manifest, write_dataset
from tests.trainer.prompt_sets import write_prompts
from trainer.prompts import EMPTY_KEY, GROUP, PromptEncoding, open_prompts

TEXTS = ["a red circle", "two blue squares", "nothing", "a green star", "a very small dot"]


def test_prompts_come_in_order_without_the_empty_one(tmp_path: Path) -> None:
    prompts = open_prompts(write_prompts(tmp_path, TEXTS), make_identity())
    assert prompts.texts == TEXTS
    assert prompts.empty is not None
    assert prompts.empty.caption == ""
    assert prompts.select([4, 0, 4]).texts == [TEXTS[4], TEXTS[0], TEXTS[4]]


def test_names_are_those_the_pipeline_writes() -> None:
    assert (GROUP, EMPTY_KEY) == (WRITTEN_GROUP, WRITTEN_EMPTY_KEY)


@pytest.mark.parametrize("number", [-1, 5])
def test_a_number_that_is_none_of_them_is_refused(tmp_path: Path, number: int) -> None:
    prompts = open_prompts(write_prompts(tmp_path, TEXTS), make_identity())
    with pytest.raises(ConfigError, match="from 0 to 4"):
        prompts.select([0, number])


def test_prompts_encoded_in_another_way_are_refused(tmp_path: Path) -> None:
    url = write_prompts(tmp_path, TEXTS, padding="none")
    with pytest.raises(IdentityMismatchError, match="padding: 'max_length' -> 'none'"):
        open_prompts(url, make_identity())


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingObjectError):
        open_prompts(str(tmp_path / "nothing"), make_identity())
    without = write_prompts(tmp_path / "without", TEXTS, empty=False)
    assert open_prompts(without, make_identity()).empty is None
    with pytest.raises(ConfigError, match="no empty one"):
        open_prompts(without, make_identity(), need_empty=True)
    with pytest.raises(ConfigError, match="0 prompts"):
        open_prompts(write_prompts(tmp_path / "only-empty", []), make_identity())
    write_dataset(str(tmp_path / "null"), make_manifest(), {"txt": {"prompts": [Sample("000000", None)]}})
    with pytest.raises(ContractError, match="null rows: 000000"):
        open_prompts(str(tmp_path / "null"), make_identity())


def test_what_stands_for_an_encoder_that_is_left_out(tmp_path: Path) -> None:
    prompts = open_prompts(write_prompts(tmp_path, TEXTS), make_identity())
    assert prompts.empty is not None
    zeros, empty = PromptEncoding(MAX_TOKENS, use_empty=False), PromptEncoding(MAX_TOKENS, use_empty=True)
    assert not zeros.encode(prompts, prompts.rows, ()).prompt_embeds.any()
    assert not zeros.encode(prompts, prompts.rows, ()).pooled_prompt_embeds.any()
    left_out = empty.encode(prompts, prompts.rows, ())
    expected = zeros.encode(prompts, [prompts.empty] * len(TEXTS), ENCODER_NAMES)
    assert torch.equal(left_out.prompt_embeds, expected.prompt_embeds)
    assert torch.equal(left_out.pooled_prompt_embeds, expected.pooled_prompt_embeds)
    assert expected.prompt_embeds.any()
