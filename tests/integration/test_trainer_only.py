"""With nothing but the trainer's extra installed, a model is trained, sampled and exported."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.datasets import make_manifest, samples, write_dataset
from tests.integration.commands import environment
from tests.integration.trainer_site import isolated_python, make_site, trainer_distributions
from tests.latent_datasets import make_latent_manifest
from tests.trainer.prompt_sets import write_prompts

FOREIGN = ("transformers", "open_clip", "ray", "sentencepiece", "tokenizers", "torchvision")

# One process for all three commands: what takes long is importing torch.
COMMANDS = """
import importlib.util
from trainer.__main__ import main
found = [name for name in FOREIGN if importlib.util.find_spec(name) is not None]
assert not found, f"importable: {found}"
data, prompts, run, grid, exported = sys.argv[1:]
small = ["--steps", "3", "--batch-size", "4", "--stream.num-streams", "2", "--stream.holdout-rows", "0"]
few = ["--images.sampling.steps", "2", "--images.every-steps", "3", "--checkpoint.every-steps", "2"]
assert main(["train", "demo", "--data", data, "--output", run, "--prompts", prompts, *small, *few]) == 0
picture = ["--encoders", "all", "clip_l,clip_g", "--sampling.steps", "2"]
assert main(["sample", "--checkpoint", run, "--prompts", prompts, "--output", grid, *picture]) == 0
assert main(["export", "--checkpoint", run, "--output", exported]) == 0
assert not set(FOREIGN) & set(sys.modules)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trainer") / "site-packages"
    make_site(folder)
    return folder


def run_isolated(site: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = f"FOREIGN = {FOREIGN!r}\n{program}"
    return subprocess.run(
        isolated_python(site, program, *arguments),
        cwd=site,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


def test_the_extra_is_all_there_and_all_there_is(site: Path) -> None:
    assert {"torch", "diffusers", "tensorboard", "pillow", "safetensors"} <= trainer_distributions()
    names = "importlib.metadata.distributions()"
    result = run_isolated(site, f"import importlib.metadata; print(*(d.name for d in {names}))")
    there = {name.lower().replace("_", "-") for name in result.stdout.split()}
    assert {"torch", "diffusers", "tensorboard", "pydantic-core"} <= there, result.stderr
    assert there & {"transformers", "open-clip-torch", "ray", "torchvision", "tokenizers"} == set()


def test_train_sample_and_export_without_any_text_encoder_library(site: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    latents = make_latent_manifest(kind="pixels", buckets=((32, 32),))
    write_dataset(data, make_manifest(), {"txt": {"s": samples(16)}}, latents)
    prompts = write_prompts(tmp_path / "prompts", ["one", "two"])
    run, grid, exported = tmp_path / "run", tmp_path / "grid.png", tmp_path / "exported"
    result = run_isolated(site, COMMANDS, data, prompts, str(run), str(grid), str(exported))
    assert result.returncode == 0, result.stdout + result.stderr
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000002", "step-00000003"]
    with Image.open(grid) as picture:
        assert picture.width > picture.height > 2 * 128
    index = json.loads((exported / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusion3Pipeline"
    assert (exported / "transformer/diffusion_pytorch_model.safetensors").stat().st_size > 100_000
