"""A Hugging Face id downloads only what is needed, and works from the cache afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest

from pipeline.encoders import EncoderConfig
from schemas.errors import ConfigError
from schemas.identity import EncoderIdentity, EncoderName
from tests.checkpoints import small_clip, small_t5, to_shards, write_sd3
from tests.pipeline.encoders.encoding import load
from tests.pipeline.encoders.hub_server import COMMIT, hub


@pytest.fixture
def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Points huggingface_hub at an address, or switches it offline, with a cache of its own."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)

    def point(address: str | None) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", address is None)
        if address:
            monkeypatch.setattr(constants, "ENDPOINT", address)
            template = address + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    return point


def test_repository_is_fetched_sparingly_and_then_works_offline(
    tmp_path: Path, offline_hub: Callable[[str | None], None]
) -> None:
    repository = tmp_path / "repository"
    clip = small_clip(1, width=64, activation="gelu")
    write_sd3(repository, clip, clip, small_t5(3))
    to_shards(repository / "text_encoder_3")
    (repository / "sd3_medium.safetensors").write_bytes(b"large")
    (repository / "transformer").mkdir()
    (repository / "transformer" / "model.safetensors").write_bytes(b"larger")

    def identities(source: str) -> list[EncoderIdentity]:
        names: tuple[EncoderName, ...] = ("clip_l", "clip_g", "t5")
        return [load(name, source).identity for name in names]

    with hub("owner/sd3", repository) as (address, asked):
        offline_hub(address)
        online = identities("owner/sd3")
    assert {identity.revision for identity in online} == {COMMIT}
    assert {name.split("/")[0] for name in asked} == {
        *(f"text_encoder{number}" for number in ("", "_2", "_3")),
        *(f"tokenizer{number}" for number in ("", "_2", "_3")),
    }
    local = identities(str(repository))
    assert [identity.model_copy(update={"source": "", "revision": None}) for identity in online] == [
        identity.model_copy(update={"source": ""}) for identity in local
    ]
    assert identities("owner/sd3") == online  # the server is gone: the cache serves
    offline_hub(None)
    assert identities("owner/sd3") == online
    assert load("t5", EncoderConfig("owner/sd3", revision=COMMIT)).identity == online[2]
    with pytest.raises(ConfigError) as caught:
        load("t5", EncoderConfig("owner/sd3", revision="other"))
    assert caught.value.code == "source-unavailable"
