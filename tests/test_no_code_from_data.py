"""No source file reads data, weights or configuration in a way that could run code hidden in them.

ruff bans the imports (pickle and its kind) and the shell; this looks at what it does not check: arguments, functions of
libraries under whatever name they are imported, and those that are passed on instead of called.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCES = ("schemas", "pipeline", "trainer", "benchmarks")


# What runs code, or loads it by a name that may come from data, by the names that the libraries give it.
_RUNNING = frozenset(
    (
        *(
            "eval",
            "exec",
            "compile",
            "__import__",
            "runpy.run_path",
            "runpy.run_module",
            "marshal.load",
            "marshal.loads",
        ),
        *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
        *("asyncio.create_subprocess_shell", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"),
        *("joblib.load", "pandas.read_pickle", "pyarrow.deserialize"),
        *("torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter"),
        *("torch.distributed.checkpoint.load", "torch.distributed.checkpoint.save"),
    )
)
# By their last name, wherever they come from. DCP's own readers and writers keep pickles; the trainer's
# checkpoint_tensors.py uses those of its safetensors form.
_RUNNING_ANYWHERE = frozenset(
    ("FileSystemReader", "FileSystemWriter", "safe_globals", "add_safe_globals", "extractall")
)
_SWITCHES = frozenset(("trust_remote_code", "allow_pickle", "shell"))


def unsafe_lines(source: str) -> list[int]:
    """The lines of all that could run code from what is read: calls, and functions and switches that are passed on."""
    tree = ast.parse(source)
    imported = _imported(tree)
    safe = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_safe_load(node)}
    found = [node for node in ast.walk(tree) if id(node) not in safe and _is_unsafe(node, imported)]
    return sorted({node.lineno for node in found})


def _imported(tree: ast.Module) -> dict[str, str]:
    """What the names that are imported anywhere in a file stand for, such as np for numpy."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _is_unsafe(node: ast.AST, imported: dict[str, str]) -> bool:
    # Only a literal False can be checked by reading.
    if isinstance(node, ast.keyword):
        return node.arg in _SWITCHES and not _is_literal(node.value, False)
    if isinstance(node, ast.Dict):
        return any(isinstance(key, ast.Constant) and key.value in _SWITCHES for key in node.keys)
    if not isinstance(node, ast.Name | ast.Attribute) or not isinstance(node.ctx, ast.Load):
        return False
    first, dot, rest = ast.unparse(node).partition(".")
    name = (imported.get(first, first) + dot + rest).removeprefix("builtins.")
    return name in _RUNNING or name.rpartition(".")[2] in _RUNNING_ANYWHERE


def _is_safe_load(call: ast.Call) -> bool:
    """Whether a call, of torch.load say, says that it loads nothing but weights."""
    return any(keyword.arg == "weights_only" and _is_literal(keyword.value, True) for keyword in call.keywords)


def _is_literal(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_no_source_reads_data_as_code(repository: Path) -> None:
    found_files = [file for package in SOURCES for file in (repository / package).rglob("*.py")]
    # Environments of the benchmarks are other people's code.
    files = [
        file for file in found_files if not any(part.startswith(".") for part in file.relative_to(repository).parts)
    ]
    assert files
    found = [f"{file.relative_to(repository)}:{line}" for file in files for line in unsafe_lines(file.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "torch.load(path, **{'weights_only': True})",
        "from torch import load as read; read(path)",
        "import torch as t; t.load(path)",
        "read = torch.load",
        "AutoModel.from_pretrained(source, trust_remote_code=True)",
        "AutoModel.from_pretrained(source, **{'trust_remote_code': True})",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "import subprocess; subprocess.run(command, shell=True)",
        "import subprocess as s; s.getoutput(command)",
        "torch.hub.load(repository, name)",
        "torch.serialization.add_safe_globals([kind])",
        "import torch.distributed.checkpoint as dcp; dcp.load(state)",
        "from torch.distributed import checkpoint; checkpoint.save(state)",
        "FileSystemReader(folder)",
        "archive.extractall(folder)",
        "from yaml import unsafe_load; unsafe_load(text)",
        "import runpy; runpy.run_path(path)",
        "eval(text)",
        "import builtins; builtins.exec(text)",
        "list(map(eval, texts))",
    ],
)
def test_unsafe_line_is_found(line: str) -> None:
    assert unsafe_lines(f"import torch\n{line}\n") == [2]


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "import re; re.compile(text)",
        "module.eval()",
        "torch.compile(model)",
        "from safetensors.torch import load; load(data)",
    ],
)
def test_safe_line_is_not(line: str) -> None:
    assert unsafe_lines(f"import torch\n{line}\n") == []
