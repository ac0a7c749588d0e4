"""The trainer's commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import tyro

from schemas.errors import EncodeOnceError

_USAGE = """usage: python -m trainer COMMAND ...

  train PRESET   train a model on a dataset's captions and images; run again, it resumes
                 (presets: demo, sd3-medium, mmdit-d15 and other depths)
  sample         pictures of stored prompts from a checkpoint, prompts by subsets of the text encoders
  export         a checkpoint in diffusers' layout, for StableDiffusion3Pipeline

`python -m trainer COMMAND --help` tells the options of a command. On several GPUs:
`torchrun --nproc-per-node 8 -m trainer train ...`."""


def _train(arguments: Sequence[str]) -> int:
    from trainer.presets import presets_with
    from trainer.train import run

    presets = presets_with(arguments[0] if arguments else None)
    return run(tyro.extras.overridable_config_cli(presets, args=arguments, prog="python -m trainer train"))


def _sample(arguments: Sequence[str]) -> int:
    from trainer.sample import SampleConfig, run

    return run(tyro.cli(SampleConfig, args=arguments, prog="python -m trainer sample"))


def _export(arguments: Sequence[str]) -> int:
    from trainer.export import ExportConfig, run

    return run(tyro.cli(ExportConfig, args=arguments, prog="python -m trainer export"))


# Imports are inside, so that help and errors of one command do not wait for the libraries of another.
_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"train": _train, "sample": _sample, "export": _export}


def main(arguments: Sequence[str]) -> int:
    """Runs a command.

    Returns:
        Exit status: 0 for success, 1 for an error that is explained on stderr, 2 for wrong usage, 4 for a training run
        that was stopped and saved.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    command = _COMMANDS.get(arguments[0])
    if command is None:
        print(f"unknown command {arguments[0]!r}\n\n{_USAGE}", file=sys.stderr)
        return 2
    try:
        return command(arguments[1:])
    except EncodeOnceError as error:
        print(f"error {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
