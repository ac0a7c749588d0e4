"""`checkpoint.json`: what a step folder holds, and `run.json`: what its training run was.

Both are JSON, like everything beside the tensors: a checkpoint has no pickle in it. `checkpoint.json` is sealed
(schemas.documents) and written last; it lists every other file with its size and checksum.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.documents import seal, unseal
from schemas.errors import ContractError, DamagedDataError, MissingObjectError
from schemas.identity import CaptionIdentity, LatentIdentity

FORMAT: Final = "encode-once-checkpoint"
FORMAT_VERSION: Final = 1
DOCUMENT_NAME = "checkpoint.json"
RUN_NAME = "run.json"
MODEL_CONFIG_NAME = "config.json"

_Document = TypeVar("_Document", bound=BaseModel)


class CheckpointFile(BaseModel):
    """One file of a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", description="in the step folder; no path")
    num_bytes: int = Field(ge=0)
    xxh3_64: str = Field(pattern="^[0-9a-f]{16}$")


class CheckpointDocument(BaseModel):
    """What a step folder holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["encode-once-checkpoint"] = FORMAT
    format_version: int = FORMAT_VERSION
    step: int = Field(ge=0, description="optimizer steps done")
    seconds: float = Field(ge=0, description="time of training, over all resumes, when the last step began")
    position: int = Field(ge=0, description="samples of the stream consumed, over all ranks")
    world_size: int = Field(gt=0, description="ranks that wrote it; any number may read it")
    device_type: str = Field(description="cpu or cuda: whose random generators it holds")
    has_ema: bool
    stream: dict[str, Any] = Field(description="state_dict of the stream")
    files: tuple[CheckpointFile, ...]

    def dump(self) -> bytes:
        """The bytes of `checkpoint.json`."""
        return seal(self.model_dump(mode="json"), for_people=True)


class RunDescription(BaseModel):
    """What `sample`, `export` and a resume must know of the run that wrote a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: dict[str, Any] = Field(description="the run's whole configuration, defaults resolved")
    datasets: tuple[str, ...] = Field(description="URLs it trains on")
    captions: CaptionIdentity
    latents: LatentIdentity
    left_out: Literal["zeros", "empty"] = Field(description="what stood for an encoder that was left out in training")
    t5_tokens: int = Field(gt=0, description="T5 rows of the context")
    shift: float = Field(gt=0, description="resolution shift of the noise levels: t' = shift t / (1 + (shift - 1) t)")
    versions: dict[str, str] = Field(description="library versions")

    def dump(self) -> bytes:
        """The bytes of `run.json`."""
        return seal(self.model_dump(mode="json"), for_people=True)


def dump_model_config(config: Mapping[str, Any]) -> bytes:
    """The bytes of `config.json`. Not sealed, as diffusers reads it too; `checkpoint.json` has its checksum."""
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


def read_model_config(folder: Path) -> dict[str, Any]:
    """The model's configuration, in diffusers' form, from the folder of a checkpoint that was opened (and so checked).

    Raises:
        MissingObjectError, DamagedDataError: `config.json` is not there, or cannot be read.
    """
    config = json.loads(_read(folder / MODEL_CONFIG_NAME))
    assert isinstance(config, dict)
    return config


def read_run(folder: Path) -> RunDescription:
    """The run that wrote the checkpoint in `folder`.

    Raises:
        MissingObjectError, DamagedDataError, ContractError: `run.json` is not there, damaged, or of another version.
    """
    return _load(folder / RUN_NAME, RunDescription)


def read_document(folder: Path) -> CheckpointDocument:
    """The document of the checkpoint in `folder`.

    Raises:
        MissingObjectError, DamagedDataError, ContractError: It is not there, damaged, or of another version.
    """
    return _load(folder / DOCUMENT_NAME, CheckpointDocument)


def _load(path: Path, kind: type[_Document]) -> _Document:
    body = unseal(_read(path), where=str(path))
    if kind is CheckpointDocument and (body.get("format"), body.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise ContractError(
            "format-version-unknown",
            where=str(path),
            expected=f"format {FORMAT!r} version {FORMAT_VERSION}",
            actual=f"format {body.get('format')!r} version {body.get('format_version')!r}",
            remedy="use the encode-once release that wrote the checkpoint",
        )
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise ContractError(
            "checkpoint-document-invalid",
            where=str(path),
            expected=f"the fields of {kind.__name__}",
            actual=str(error).replace("\n", " ")[:500],
            remedy="use the encode-once release that wrote the checkpoint",
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingObjectError(
            "checkpoint-incomplete",
            where=str(path),
            expected="a file of every checkpoint",
            actual="not there",
            remedy="name the folder of a training run, or one of its step folders",
        ) from error
    except OSError as error:
        raise DamagedDataError(
            "checkpoint-unreadable",
            where=str(path),
            expected="a file that can be read",
            actual=f"{type(error).__name__}: {error}",
            remedy="fix the permissions or the disk, or take an older checkpoint",
        ) from error
