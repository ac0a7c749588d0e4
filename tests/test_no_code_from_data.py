"""No source file reads data, weights or configuration in a way that could run code hidden in them.

ruff bans the imports (pickle and its kind) and the shell; this looks at the arguments it does not check.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCES = ("schemas", "pipeline", "trainer", "benchmarks")


# What runs code, or loads it by a name that may come from data. DCP's own readers and writers keep pickles;
# trainer/checkpoint_tensors.py uses those of its safetensors form.
_RUNNING = frozenset(
    (
        *(
            "eval",
            "exec",
            "compile",
            "__import__",
            "os.system",
            "os.popen",
            "yaml.load",
            "joblib.load",
            "pa.deserialize",
        ),
        *(
            "torch.save",
            "torch.hub.load",
            "torch.jit.load",
            "dcp.load",
            "dcp.save",
            "FileSystemReader",
            "FileSystemWriter",
        ),
    )
)


def unsafe_calls(source: str) -> list[int]:
    """The lines of all calls that could run code from what they read."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if _is_unsafe(call)]


def _is_unsafe(call: ast.Call) -> bool:
    arguments = {keyword.arg: keyword.value for keyword in call.keywords}
    # Only a literal False can be checked by reading.
    for switch in ("trust_remote_code", "allow_pickle", "shell"):
        if switch in arguments and not _is_literal(arguments[switch], False):
            return True
    name = ast.unparse(call.func)
    if name in _RUNNING or name.endswith(("safe_globals", "extractall")):
        return True
    return name == "torch.load" and not _is_literal(arguments.get("weights_only"), True)


def _is_literal(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_no_source_reads_data_as_code(repository: Path) -> None:
    found_files = [file for package in SOURCES for file in (repository / package).rglob("*.py")]
    # Environments of the benchmarks are other people's code.
    files = [
        file for file in found_files if not any(part.startswith(".") for part in file.relative_to(repository).parts)
    ]
    assert files
    found = [f"{file.relative_to(repository)}:{line}" for file in files for line in unsafe_calls(file.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "AutoModel.from_pretrained(source, trust_remote_code=True)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "torch.hub.load(repository, name)",
        "torch.serialization.add_safe_globals([kind])",
        "FileSystemReader(folder)",
        "archive.extractall(folder)",
        "eval(text)",
    ],
)
def test_unsafe_call_is_found(line: str) -> None:
    assert unsafe_calls(f"import torch\n{line}\n") == [2]


@pytest.mark.parametrize("line", ["torch.load(path, weights_only=True)", "np.load(path, allow_pickle=False)"])
def test_safe_call_is_not(line: str) -> None:
    assert unsafe_calls(line) == []
