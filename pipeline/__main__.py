"""The pipeline's commands."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence

import tyro

from schemas.errors import EncodeOnceError

_USAGE = """usage: python -m pipeline COMMAND ...

  encode PRESET     encode the captions of tars with three text encoders, and with --latents their images, into a
                    dataset (presets: sd3, compact, demo)
  encode-prompts PRESET
                    encode a text file of prompts, for sampling and validation images
  prepare-weights   extract the three text towers once, so that a cluster need not download 44 GB a node
  verify URL        encode rows of a dataset again, in float32, and compare: is it what its manifest says?
  demo-data         write sample caption tars

`python -m pipeline COMMAND --help` tells the options of a command."""


def _encode(arguments: Sequence[str]) -> int:
    from pipeline.encode import run
    from pipeline.presets import PRESETS

    config = tyro.extras.overridable_config_cli(PRESETS, args=arguments, prog="python -m pipeline encode")
    return run(config)


def _encode_prompts(arguments: Sequence[str]) -> int:
    from pipeline.encode_prompts import PROMPT_PRESETS, run

    prog = "python -m pipeline encode-prompts"
    return run(tyro.extras.overridable_config_cli(PROMPT_PRESETS, args=arguments, prog=prog))


def _prepare_weights(arguments: Sequence[str]) -> int:
    from pipeline.prepare_weights import PrepareWeightsConfig, run

    prepared = run(tyro.cli(PrepareWeightsConfig, args=arguments, prog="python -m pipeline prepare-weights"))
    for encoder in prepared:
        print(f"{encoder.name:<8}{encoder.weights_bytes / 1e9:.2f} GB in {encoder.folder}")
    print("\nAdd to encode:\n  " + " \\\n  ".join(shlex.join(encoder.options) for encoder in prepared))
    return 0


def _verify(arguments: Sequence[str]) -> int:
    from pipeline.verify import VerifyConfig, run

    return run(tyro.cli(VerifyConfig, args=arguments, prog="python -m pipeline verify"))


def _demo_data(arguments: Sequence[str]) -> int:
    from pipeline.demo_data import DemoDataConfig, run

    return run(tyro.cli(DemoDataConfig, args=arguments, prog="python -m pipeline demo-data"))


# Imports are inside, so that help and errors of one command do not wait for the libraries of another.
_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "encode": _encode,
    "encode-prompts": _encode_prompts,
    "prepare-weights": _prepare_weights,
    "verify": _verify,
    "demo-data": _demo_data,
}


def main(arguments: Sequence[str]) -> int:
    """Runs a command.

    Returns:
        Exit status: 0 for success, 1 for an error that is explained on stderr, 2 for wrong usage; `encode` and
        `verify` have more.
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
