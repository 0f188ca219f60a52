"""An environment that has only what `make serve` installs, for commands that a test runs as processes of their own."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def extras() -> list[str]:
    """The modules of the packages that only extras install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line for extra in project["optional-dependencies"].values() for line in extra]
    packages = {re.split(r"[\[<>=;]", line)[0] for line in lines} - {project["name"]}
    return sorted(package.replace("-", "_") for package in packages)


def environment(folder: Path, code: Path = ROOT) -> dict[str, str]:
    """Variables of a Python that finds no package of an extra. folder: an empty one. code: the folder of app and model.

    A module that is None in sys.modules is not found, neither by `import` nor by `find_spec`.
    """
    lines = ["import sys", *(f"sys.modules[{name!r}] = None" for name in extras())]
    (folder / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{code}", "OMP_NUM_THREADS": "1"}
