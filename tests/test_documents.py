"""What the README and the specification say is run, or compared with the code."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import tyro

from pipeline.encode_prompts import PROMPT_PRESETS, EncodePromptsConfig
from pipeline.prepare_weights import PrepareWeightsConfig
from pipeline.presets import PRESETS, EncodeConfig
from pipeline.sources import CAPTION_CODES, DAMAGE_CODES, MEMBER_CODES
from pipeline.sources.reject_codes import IMAGE_CODES
from schemas.identity import LatentIdentity
from schemas.index import index_schema
from schemas.latent_manifest import LatentManifest
from schemas.latent_schema import IMAGE_FIELDS
from schemas.ledger import LatentStats, LedgerRecord
from tests.datasets import make_manifest, samples, write_dataset
from trainer.export import ExportConfig
from trainer.presets import TrainConfig, presets_with
from trainer.sample import SampleConfig


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The lines of shell blocks, continued ones joined, comments left out."""
    lines = "\n".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    return [found for line in lines if (found := shlex.split(line, comments=True))]


def test_the_python_of_the_readme_runs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(str(tmp_path / "demo/dataset"), make_manifest(), {"txt": {"00000": samples(5)}})
    monkeypatch.chdir(tmp_path)
    (code,) = blocks((repository / "README.md").read_text(), "python")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - our own file
    assert "('txt',) 5" in capsys.readouterr().out
    assert getattr(names["batch"], "num_rows", 0) == 4


def test_the_commands_of_the_readme_parse(repository: Path) -> None:
    seen = set()
    for words in commands((repository / "README.md").read_text()):
        if words[:3] != ["python", "-m", "pipeline"]:
            continue
        seen.add(words[3])
        if words[3] == "encode-prompts":
            prompts = tyro.extras.overridable_config_cli(PROMPT_PRESETS, args=words[4:])
            assert isinstance(prompts, EncodePromptsConfig)
        if words[3] == "encode":
            config = tyro.extras.overridable_config_cli(PRESETS, args=words[4:])
            assert isinstance(config, EncodeConfig)
        elif words[3] == "prepare-weights":
            assert tyro.cli(PrepareWeightsConfig, args=words[4:]).output
    assert {"encode", "encode-prompts", "prepare-weights"} <= seen


@pytest.mark.parametrize("document", ["README.md", "docs/training.md"])
def test_the_commands_of_the_trainer_parse(document: str, repository: Path) -> None:
    seen = set()
    for words in commands((repository / document).read_text()):
        if "trainer" not in words or words[words.index("trainer") - 1] != "-m":
            continue
        command, *options = words[words.index("trainer") + 1 :]
        seen.add(command)
        if command == "train":
            config = tyro.extras.overridable_config_cli(presets_with(options[0]), args=options)
            assert isinstance(config, TrainConfig)
        else:
            tyro.cli({"sample": SampleConfig, "export": ExportConfig}[command], args=options)
    assert seen == {"train", "sample", "export"}


def test_the_options_of_the_training_page_exist(repository: Path) -> None:
    known = {"latents", "data", "prompts", "checkpoint", "batch_size", "accumulation"}
    config = dataclasses.asdict(presets_with("demo")["demo"][1])
    for option in re.findall(r"`--([a-z.-]+)", (repository / "docs/training.md").read_text()):
        found: object = config
        for name in option.replace("-", "_").split("."):
            assert name in known or (isinstance(found, dict) and name in found), option
            found = found[name] if isinstance(found, dict) and name in found else None


def test_the_make_targets_of_the_readme_exist(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text()
    targets = [words[1] for words in commands((repository / "README.md").read_text()) if words[0] == "make"]
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_the_files_of_the_readme_exist(repository: Path) -> None:
    text = (repository / "README.md").read_text()
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (repository / link).exists(), link
    tree = text.split("## Find your way")[1].split("```")[1]
    folder = repository
    for line in tree.splitlines():
        if re.match(r"\w\S*/", line):
            folder = repository / line.split()[0]
            assert folder.is_dir(), folder
        for name in re.findall(r"[a-z_]+(?:\.py|\.md|/)", re.split(r"    +(?=[a-z])", line.strip())[0]):
            assert (folder / name).exists() or (repository / name).exists(), f"{folder.name}/{name}"


def test_the_specification_lists_every_code_and_field(repository: Path) -> None:
    text = (repository / "schemas/SPEC.md").read_text()
    for code in (*CAPTION_CODES, *IMAGE_CODES, *MEMBER_CODES, *DAMAGE_CODES, "output-not-finite"):
        assert f"| `{code}` |" in text, code
    stored = (LedgerRecord, LatentStats, LatentManifest, LatentIdentity)
    fields = [name for model in stored for name in model.model_fields]
    for field in (*fields, *IMAGE_FIELDS, "xxh3_64", "num_truncated"):
        assert f"`{field}`" in text, field
    placeholder = index_schema("")
    assert placeholder.metadata[b"encode_once.sha256"].decode() in text
    sections = re.findall(r"^## (\d+)\. ", text, re.MULTILINE)
    assert sections == [str(number) for number in range(1, len(sections) + 1)]
