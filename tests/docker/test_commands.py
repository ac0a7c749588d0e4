"""Every command line in docker/ and docs/deploy.md is one that its program would take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tyro

from tests.docker.deployment import commands, services

Words = Sequence[str]


def parse_pipeline(words: Words) -> None:
    from pipeline.demo_data import DemoDataConfig
    from pipeline.encode_prompts import PROMPT_PRESETS
    from pipeline.prepare_weights import PrepareWeightsConfig
    from pipeline.presets import PRESETS

    command, *options = words
    if command == "encode":
        tyro.extras.overridable_config_cli(PRESETS, args=options)
    elif command == "encode-prompts":
        tyro.extras.overridable_config_cli(PROMPT_PRESETS, args=options)
    elif command != "--help":
        tyro.cli({"demo-data": DemoDataConfig, "prepare-weights": PrepareWeightsConfig}[command], args=options)


def parse_trainer(words: Words) -> None:
    from trainer.presets import presets_with

    command, *options = words
    if command != "--help":
        assert command == "train"
        tyro.extras.overridable_config_cli(presets_with(options[0]), args=options)


def parse_schemas(words: Words) -> None:
    assert words[0] in ("validate", "inspect")


def parse_torchrun(words: Words) -> None:
    from torch.distributed.run import get_args_parser

    parsed = get_args_parser().parse_args(list(words))
    assert parsed.module
    assert parsed.training_script == "trainer"
    parse_trainer(parsed.training_script_args)


def parse_ray(words: Words) -> set[str]:
    """By the options that click knows: parsing for real would look for the files they name."""
    from ray.scripts.scripts import cli

    command = cli
    rest = list(words)
    while rest and not rest[0].startswith("-") and hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    entrypoint = rest[rest.index("--") + 1 :] if "--" in rest else []
    own = rest[: rest.index("--")] if "--" in rest else rest
    for word in own:
        assert not word.startswith("-") or word.partition("=")[0] in known, (words, word)
    return parse(entrypoint) if entrypoint else set()


PROGRAMS: dict[str, Callable[[Words], set[str] | None]] = {"torchrun": parse_torchrun, "ray": parse_ray}
MODULES = {"pipeline": parse_pipeline, "trainer": parse_trainer, "schemas": parse_schemas}


def parse(words: Words) -> set[str]:
    """Parses a command of ours, or one that starts ours; the names of the programs, none for any other."""
    if words[:2] == ["docker", "compose"]:
        named = [number for number, word in enumerate(words) if word in services()]
        return parse(words[named[0] + 1 :]) if named and words[named[0] + 1 :] else set()
    program = words[0].rpartition("/")[2]
    if program == "python" and len(words) > 3 and words[1] == "-m" and words[2] in MODULES:
        MODULES[words[2]](words[3:])
        return {words[2]}
    if program in PROGRAMS:
        return {program} | (PROGRAMS[program](words[1:]) or set())
    return set()


def test_every_command_parses() -> None:
    seen: dict[str, set[str]] = {}
    for where, words in commands():
        try:
            programs = parse(words)
        except (SystemExit, KeyError) as error:
            raise AssertionError(f"{where}: {' '.join(words)}") from error
        for program in programs:
            seen.setdefault(program, set()).add(where.split()[0])
    assert seen["pipeline"] >= {"kuberay-rayjob.yaml", "pipeline.Dockerfile", "docs/deploy.md"}
    assert seen["trainer"] >= {"compose.yaml", "trainer.Dockerfile"}
    assert seen["torchrun"] >= {"compose.yaml", "pod"}
    assert seen["ray"] >= {"compose.yaml", "cluster.yaml", "docs/deploy.md"}
