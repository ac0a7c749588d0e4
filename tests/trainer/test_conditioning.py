"""Conditioning: shapes and places of diffusers' tensors, any subset of encoders, and dropout that a resume repeats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import schemas
from schemas.dataset import Row
from schemas.errors import ConfigError, ContractError
from schemas.identity import ENCODER_NAMES, CaptionIdentity, Padding, StorageDtype
from tests.datasets import MAX_TOKENS, SIZES, make_identity, make_manifest, samples, write_dataset
from trainer.conditioning import ConditioningConfig, assemble, context_layout, keep_mask

L, G, T5 = (SIZES[name][0] for name in ENCODER_NAMES)


def rows_of(
    folder: Path, padding: Padding, storage_dtype: StorageDtype = "bfloat16"
) -> tuple[list[Row], CaptionIdentity]:
    manifest = make_manifest(padding=padding, storage_dtype=storage_dtype)
    write_dataset(str(folder), manifest, {"txt": {"s": samples(6)}})
    return list(schemas.open_dataset(str(folder)).rows("txt")), manifest.captions


def float32(values: object) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values).astype(np.float32))


@pytest.mark.parametrize("storage_dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("padding", ["max_length", "none"])
def test_every_value_is_in_its_place(tmp_path: Path, padding: Padding, storage_dtype: StorageDtype) -> None:
    rows, identity = rows_of(tmp_path, padding, storage_dtype)
    found = assemble(rows, identity)
    assert found.prompt_embeds.shape == (6, 2 * MAX_TOKENS, T5)
    assert found.pooled_prompt_embeds.shape == (6, L + G)
    for row, context, pooled in zip(rows, found.prompt_embeds, found.pooled_prompt_embeds, strict=True):
        expected = torch.zeros_like(context)
        for name, first, channel in (("clip_l", 0, 0), ("clip_g", 0, L), ("t5", MAX_TOKENS, 0)):
            hidden = float32(row[name].hidden)
            expected[first : first + len(hidden), channel : channel + hidden.shape[1]] = hidden
            assert len(hidden) == (MAX_TOKENS if padding == "max_length" else row[name].num_tokens)
        assert torch.equal(context, expected)
        assert torch.equal(pooled, torch.cat([float32(row["clip_l"].pooled), float32(row["clip_g"].pooled)]))


@pytest.mark.parametrize("encoders", [[], ["clip_l"], ["clip_g", "t5"], ["t5"]])
def test_a_subset_zeroes_hidden_and_pooled_of_the_others(tmp_path: Path, encoders: list[str]) -> None:
    rows, identity = rows_of(tmp_path, "max_length")
    every, some = assemble(rows, identity), assemble(rows, identity, encoders=encoders)
    places = {
        "clip_l": (slice(0, MAX_TOKENS), slice(0, L), slice(0, L)),
        "clip_g": (slice(0, MAX_TOKENS), slice(L, L + G), slice(L, L + G)),
        "t5": (slice(MAX_TOKENS, None), slice(None), slice(0, 0)),
    }
    for name, (tokens, channels, pooled) in places.items():
        there = name in encoders
        context = every.prompt_embeds[:, tokens, channels] * there
        assert torch.equal(some.prompt_embeds[:, tokens, channels], context)
        assert torch.equal(some.pooled_prompt_embeds[:, pooled], every.pooled_prompt_embeds[:, pooled] * there)
        assert not there or context.abs().min() > 0


def test_keep_is_for_each_row_and_the_empty_prompt_stands_in(tmp_path: Path) -> None:
    rows, identity = rows_of(tmp_path, "max_length")
    keep = np.array([[True, False, True], [False, True, False], [True] * 3, [False] * 3, [True] * 3, [True] * 3])
    empty = rows[5]
    found = assemble(rows, identity, keep=keep, empty=empty)
    for index, row in enumerate(rows):
        chosen = [row if keep[index, encoder] else empty for encoder in range(3)]
        alone = [
            assemble([source], identity, encoders=[name]) for name, source in zip(ENCODER_NAMES, chosen, strict=True)
        ]
        # Their places do not overlap, so the sum of the three is the whole.
        assert torch.equal(found.prompt_embeds[index], sum(one.prompt_embeds[0] for one in alone))
        assert torch.equal(found.pooled_prompt_embeds[index], sum(one.pooled_prompt_embeds[0] for one in alone))


def test_real_sizes_are_diffusers(tmp_path: Path) -> None:
    real = {"clip_l": (768, 768, 77), "clip_g": (1280, 1280, 77), "t5": (4096, None, 256)}
    small = make_identity()
    identity = CaptionIdentity(
        **{
            name: small.encoder(name).model_copy(update={"hidden_size": h, "pooled_size": p, "max_tokens": t})
            for name, (h, p, t) in real.items()
        }
    )
    layout = context_layout(identity)
    assert (layout.num_tokens, layout.width, layout.pooled_width) == (333, 4096, 2048)


def test_t5_tokens_may_be_cut_only_where_rows_are_independent_of_padding(tmp_path: Path) -> None:
    rows, identity = rows_of(tmp_path / "none", "none")
    assert assemble(rows, identity, t5_tokens=5).prompt_embeds.shape == (6, MAX_TOKENS + 5, T5)
    with pytest.raises(ConfigError, match="t5-tokens-fixed"):
        assemble(*rows_of(tmp_path / "max", "max_length"), t5_tokens=5)


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    rows, identity = rows_of(tmp_path / "a", "none")
    with pytest.raises(ConfigError, match="clip_x"):
        assemble(rows, identity, encoders=["clip_x"])
    store = write_dataset(str(tmp_path / "b"), make_manifest(), {"txt": {"s": samples(2, missing=[1])}})
    with pytest.raises(ContractError, match="row-null"):
        assemble(list(schemas.open_dataset(store.url).rows("txt")), make_identity())
    with pytest.raises(ConfigError, match=r"conditioning\.dropout"):
        ConditioningConfig(dropout=(0.5, 1.5, 0.5))


def test_dropout_is_independent_and_of_the_wanted_rate() -> None:
    keep = keep_mask(7, np.arange(200_000), (0.464, 0.464, 0.464))
    assert np.allclose(1 - keep.mean(axis=0), 0.464, atol=0.005)
    # 0.464 cubed: about a tenth of all samples is unconditional.
    assert abs((~keep).all(axis=1).mean() - 0.0999) < 0.003
    joint = np.corrcoef(np.concatenate([keep[1:], keep[:-1]], axis=1).T)
    assert np.abs(joint - np.eye(6)).max() < 0.01


def test_dropout_depends_on_seed_and_position_only() -> None:
    positions = np.arange(1000)
    keep = keep_mask(3, positions, (0.3, 0.5, 0.7))
    shuffled = np.random.default_rng(0).permutation(1000)
    assert np.array_equal(keep_mask(3, positions[shuffled], (0.3, 0.5, 0.7)), keep[shuffled])
    assert not np.array_equal(keep_mask(4, positions, (0.3, 0.5, 0.7)), keep)
    assert keep_mask(0, positions, (0, 0, 0)).all()
    assert not keep_mask(0, positions, (1, 1, 1)).any()
    # A literal, so that no change of code or NumPy changes what a run leaves out.
    assert keep_mask(1, np.arange(8), (0.464,) * 3).astype(int).tolist() == [
        [1, 0, 0], [1, 1, 1], [1, 0, 0], [1, 0, 1], [1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 0, 1],
    ]  # fmt: skip
