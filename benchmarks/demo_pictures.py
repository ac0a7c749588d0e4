"""Scores of the demo's pictures: how many show the colours, shape and place of 48 random prompts.

    make demo
    python -m benchmarks.demo_pictures demo

Prompts are scenes of `pipeline.demo_data`, most of which the tars do not show. A picture's ground is the colour that
most pixels of its edge are nearest to, its colour the one that most pixels of the wanted shape are nearest to. Its
shape, size and place are those of the template with the largest intersection over union: each shape in each size and
place, against the pixels that are nearer to the prompt's colour than to the prompt's ground.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pipeline.demo_data import COLORS, PLACES, SHAPES, SIZES, Scene, draw
from trainer.checkpoint_document import read_run
from trainer.checkpoint_folder import find_checkpoint
from trainer.checkpoint_weights import load_model
from trainer.latent_decoder import open_decoder
from trainer.prompts import PromptEncoding, open_prompts
from trainer.sample import picture_shape
from trainer.sampling import SamplingConfig, parse_subset, sample_pictures

PROPERTIES = ("ground", "color", "shape", "size", "place")
_CAPTION = "a {what} {where} on a {ground} background"
_SUBSETS = ("all", "clip_l,clip_g", "t5")
_SIDE = 32

Mask = npt.NDArray[np.bool_]


def random_scenes(count: int, seed: str = "score") -> list[Scene]:
    """Scenes that have nothing to do with the tars' own chance."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        color, ground = chance.sample(sorted(COLORS), 2)
        size, shape, place = chance.choice(sorted(SIZES)), chance.choice(SHAPES), chance.choice(sorted(PLACES))
        found.append(Scene(size, color, shape, place, ground))
    return found


def scores(pictures: Sequence[Image.Image], scenes: Sequence[Scene]) -> dict[str, float]:
    """Share of the pictures that have each of `PROPERTIES` of their scene."""
    templates = _templates()
    right = [_right(picture, scene, templates) for picture, scene in zip(pictures, scenes, strict=True)]
    return dict(zip(PROPERTIES, np.mean(np.array(right, float), axis=0).tolist(), strict=True))


def _templates() -> dict[tuple[str, str, str], Mask]:
    """Pixels of the shape, [32, 32], by shape, size and place."""
    return {
        (shape, size, place): np.asarray(draw(Scene(size, "white", shape, place, "black"), _SIDE).convert("L")) > 128
        for shape in SHAPES
        for size in SIZES
        for place in PLACES
    }


def _right(picture: Image.Image, scene: Scene, templates: dict[tuple[str, str, str], Mask]) -> tuple[bool, ...]:
    pixels = np.asarray(picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)
    palette = np.array(list(COLORS.values()), np.float32)
    distances = np.square(pixels[:, :, None] - palette).sum(axis=-1)
    nearest, names = distances.argmin(axis=-1), list(COLORS)
    edge = np.concatenate([nearest[0], nearest[-1], nearest[:, 0], nearest[:, -1]])
    wanted = templates[scene.shape, scene.size, scene.place]
    ground, color = _most(edge, names), _most(nearest[wanted], names)
    shown = distances[:, :, names.index(scene.color)] < distances[:, :, names.index(scene.ground)]
    shape, size, place = max(templates, key=lambda name: _overlap(shown, templates[name]))
    actual = (ground, color, shape, size, place)
    return tuple(value == getattr(scene, name) for name, value in zip(PROPERTIES, actual, strict=True))


def _most(indices: npt.NDArray[np.int64], names: Sequence[str]) -> str:
    return names[int(np.bincount(indices, minlength=len(names)).argmax())]


def _overlap(left: Mask, right: Mask) -> float:
    return float((left & right).sum() / max(1, (left | right).sum()))


def main() -> None:
    """Encodes the prompts, samples, and prints a line for each subset of the encoders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder that `make demo` filled")
    options = parser.parse_args()
    scenes = random_scenes(48)
    folder = find_checkpoint(options.demo / "run")
    run = read_run(folder)
    with tempfile.TemporaryDirectory() as temporary:
        texts, encoded = Path(temporary) / "prompts.txt", Path(temporary) / "prompts"
        texts.write_text("".join(f"{scene.caption(_CAPTION)}\n" for scene in scenes))
        command = ["encode-prompts", "demo", "--prompts", str(texts), "--output", str(encoded)]
        command += ["--like", str(options.demo / "dataset")]
        subprocess.run([sys.executable, "-m", "pipeline", *command], check=True)
        prompts = open_prompts(str(encoded), run.captions, need_empty=False)
    device = torch.device("cpu")
    model = load_model(folder, ema=True, dtype=torch.float32, device=device)
    pictures = sample_pictures(
        model,
        prompts,
        [parse_subset(subset) for subset in _SUBSETS],
        encoding=PromptEncoding(run.t5_tokens, False, torch.float32, device),
        decode=open_decoder(run.latents, source=None, device=device),
        latent_shape=picture_shape(run.latents, model.config),
        shift=run.shift,
        config=SamplingConfig(guidance=3.0, batch_size=16),
    )
    print(f"{folder.name}, of {len(scenes)} random prompts:")
    for number, subset in enumerate(_SUBSETS):
        found = scores([row[number] for row in pictures], scenes)
        print(f"  {subset:<14}" + " | ".join(f"{name} {share:.0%}" for name, share in found.items()))


if __name__ == "__main__":
    main()
