"""Reads the files of docker/ and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).resolve().parents[2] / "docker"
DOCKERFILES = ("pipeline.Dockerfile", "trainer.Dockerfile")
MANIFESTS = ("kuberay-rayjob.yaml", "kubernetes-trainer.yaml")


def read(name: str) -> Any:
    """A file of one YAML document."""
    return yaml.safe_load((DOCKER / name).read_text())


def documents(name: str) -> dict[str, Any]:
    """A file of several, by kind."""
    found = list(yaml.safe_load_all((DOCKER / name).read_text()))
    assert len({document["kind"] for document in found}) == len(found)
    return {document["kind"]: document for document in found}


def instructions(name: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions, continued lines joined, comments left out."""
    lines = [line for line in (DOCKER / name).read_text().splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in whole.splitlines() if line]


def final_stage(name: str) -> list[tuple[str, str]]:
    """What is in the image: the instructions after the last FROM."""
    found = instructions(name)
    last = max(number for number, (instruction, _) in enumerate(found) if instruction == "FROM")
    return found[last:]


def services() -> dict[str, Any]:
    """Of compose.yaml."""
    found: dict[str, Any] = read("compose.yaml")["services"]
    return found


def pods() -> dict[str, Any]:
    """Pod specifications of the Kubernetes manifests, by a name for messages."""
    ray = documents("kuberay-rayjob.yaml")["RayJob"]["spec"]
    workers = ray["rayClusterSpec"]["workerGroupSpecs"]
    return {
        "submitter": ray["submitterPodTemplate"]["spec"],
        "head": ray["rayClusterSpec"]["headGroupSpec"]["template"]["spec"],
        **{group["groupName"]: group["template"]["spec"] for group in workers},
        "trainer": documents("kubernetes-trainer.yaml")["Job"]["spec"]["template"]["spec"],
    }


def shell_lines(lines: list[str]) -> list[list[str]]:
    """The words of each command in lines of shell; `&&` and `;` part commands, `\\` continues them."""
    found: list[list[str]] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if set(word) <= set("();&|"):
                found.append(words)
                words = []
            else:
                words.append(word)
        found.append(words)
    return [words for words in found if words]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command of docker/ and of docs/deploy.md, with where it is."""
    for name, service in services().items():
        if "command" in service:
            yield f"compose.yaml {name}", [*service.get("entrypoint", ()), *service["command"]]
    for name, pod in pods().items():
        for container in pod["containers"]:
            if "command" in container:
                yield f"pod {name}", container["command"]
    entrypoint = documents("kuberay-rayjob.yaml")["RayJob"]["spec"]["entrypoint"]
    yield "kuberay-rayjob.yaml", shlex.split(entrypoint)
    cluster = read("cluster.yaml")
    for key in (name for name in cluster if name.endswith("_commands")):
        for words in shell_lines(cluster[key]):
            yield f"cluster.yaml {key}", words
    for name in DOCKERFILES:
        for instruction, text in instructions(name):
            if instruction == "CMD":
                yield name, yaml.safe_load(text)
    text = (DOCKER.parent / "docs/deploy.md").read_text()
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for words in shell_lines([block]):
            yield "docs/deploy.md", words
