"""Reads recipe.toml, which holds commands by stage and name. Prints and runs the commands."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.config import CLIP_PRESETS, REVISER_PRESETS, TRANSFORMER_PRESETS, VAE_PRESETS
from model.errors import DataError

RECIPE = Path(__file__).parent / "recipe.toml"
PROGRAMS = {  # how a command begins -> what is run
    "dalle-server": (sys.executable, "-m", "app"),
    "python -m model.recipes.default": (sys.executable, "-m", "model.recipes.default"),
}
PRESETS = {  # command -> the presets that it knows
    "train vae": VAE_PRESETS,
    "train transformer": TRANSFORMER_PRESETS,
    "train clip": CLIP_PRESETS,
    "train reviser": REVISER_PRESETS,
}


@dataclass(frozen=True)
class Step:
    """One command. program: a key of PROGRAMS. options: by name, as in recipe.toml."""

    program: str
    command: str
    data: tuple[str, ...]
    options: Mapping[str, Any]

    @property
    def arguments(self) -> list[str]:
        """The arguments after the program."""
        flags = [flag for name, value in self.options.items() for flag in _flags(name, value)]
        return [*self.command.split(), *self.data, *flags]

    def __str__(self) -> str:
        """The command as typed in a shell."""
        return f"{self.program} {shlex.join(self.arguments)}"

    def with_preset(self, preset: str) -> Step:
        """The step with another preset. It is unchanged if it has no preset, or if its command knows no such preset."""
        if "preset" not in self.options or preset not in PRESETS[self.command]:
            return self
        return replace(self, options={**self.options, "preset": preset})

    def run(self) -> int:
        """Run the command and return its exit status."""
        return subprocess.run([*PROGRAMS[self.program], *self.arguments], check=False).returncode


def _flags(name: str, value: object) -> Iterator[str]:
    if value is True:
        yield f"--{name}"
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from (f"--{name}", f"{key}={_text(entry)}")
    else:
        for text in value if isinstance(value, list) else [value]:
            yield from (f"--{name}", str(text))


def _text(value: object) -> str:
    """A value in the form that `--set` reads: a list separated by commas, a table as NAME:NUMBER."""
    if isinstance(value, dict):
        return ",".join(f"{name}:{number}" for name, number in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _step(path: Path, where: str, entry: Mapping[str, Any]) -> Step:
    text = str(entry.get("run", ""))
    program = next((program for program in PROGRAMS if text.startswith(f"{program} ")), None)
    if program is None:
        raise DataError(f"{path}: {where}: run must begin with {' or '.join(PROGRAMS)}, got {text!r}")
    options = {name: value for name, value in entry.items() if name not in ("run", "data")}
    return Step(program, text.removeprefix(f"{program} "), tuple(entry.get("data", ())), options)


def read(path: Path = RECIPE) -> dict[str, dict[str, list[Step]]]:
    """Stage -> name -> its commands, in order. Raises DataError."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    return {
        stage: {name: [_step(path, f"{stage}.{name}", entry) for entry in steps] for name, steps in named.items()}
        for stage, named in found.items()
    }
