"""The README's code runs, its commands parse, and what it names is there."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main

from app.cli import app
from tests.revising import with_reviser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return found


def test_the_python_runs(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    with_reviser(tiny_checkpoint, tmp_path / "weights" / "default")
    seen: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, seen)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [f"apple-{i}.png" for i in range(4)]
    assert seen["logits"].shape[1] == seen["text_ids"].shape[1] + 1024


def test_the_commands_parse() -> None:
    lines = [
        line.partition("dalle-server ")[2]
        for block in blocks("bash")
        for line in block.replace("\\\n", "").splitlines()
    ]
    commands = [shlex.split(line, comments=True) for line in lines if line and not line.startswith("&&")]
    assert len(commands) >= 8
    for arguments in commands:
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[arguments.pop(0)]
        command.make_context("dalle-server", arguments)


def test_the_tree_is_there() -> None:
    (tree,) = blocks("text")
    folder = ""
    for line in tree.splitlines():
        names = re.split(r" {2,}", line.strip())[0].split(", ")
        for name in names:
            path = folder + name if line.startswith("  ") else name
            assert (ROOT / path).exists(), path
        if not line.startswith("  "):
            folder = names[0]


def test_make_targets_and_dependencies_are_all_named() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"\.PHONY: (.*)", makefile)
    assert phony is not None
    assert set(re.findall(r"`make (\w+)` \|", README)) == set(phony[1].split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    table = README.partition("## Dependencies")[2]
    for line in (*project["dependencies"], *extras):
        name = re.split(r"[\[<>=]", line)[0]
        assert name == project["name"] or re.search(rf"\b{re.escape(name)}\b", table), name
