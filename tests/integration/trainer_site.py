"""A site-packages folder that holds what `pip install encode-once[trainer]` brings, and nothing else.

Made of links into the environment that runs the tests, so it takes a second and no network.
"""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.integration.commands import REPOSITORY
from tests.trainer.test_install import required_distributions

PACKAGES = ("schemas", "pipeline", "trainer")


def trainer_distributions() -> set[str]:
    """All that the trainer's extra brings, by the requirements in pyproject.toml."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["trainer"]]
    return {name for text in requirements for name in required_distributions(Requirement(text).name, "")}


def make_site(folder: Path) -> None:
    """Fills `folder` with links to these distributions and to this repository's packages."""
    folder.mkdir()
    wanted = trainer_distributions()
    own: dict[str, list[PurePosixPath]] = {}
    foreign: set[str] = set()
    root = Path()
    for distribution in metadata.distributions():
        files = [file for file in distribution.files or [] if ".." not in file.parts]
        if canonicalize_name(distribution.name) not in wanted:
            foreign.update(file.parts[0] for file in files)
            continue
        root = Path(str(distribution.locate_file("")))
        for file in files:
            own.setdefault(file.parts[0], []).append(file)
    for top, files in own.items():
        # A folder that others have put files into (a namespace package) is linked file by file.
        for file in [PurePosixPath(top)] if top not in foreign else files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).symlink_to(root / file)
    for package in PACKAGES:
        (folder / package).symlink_to(REPOSITORY / package)


def isolated_python(site: Path, program: str, *arguments: str) -> list[str]:
    """A command line that runs `program` with the standard library and `site` alone."""
    return [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(site)!r})\n{program}", *arguments]
