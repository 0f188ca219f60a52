"""What README and docs/ say holds: their code runs, their commands parse, and what they name is there."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main

from app.cli import app
from app.settings import Settings
from tests.revising import with_reviser

ROOT = Path(__file__).parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in (
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))
)}  # fmt: skip
ALL = "\n".join(PAGES.values())


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", ALL, re.DOTALL)
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
        if re.match(r"(torchrun .* )?dalle-server ", line)
    ]
    commands = [shlex.split(line, comments=True) for line in lines]
    assert len(commands) >= 20
    for arguments in commands:
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[arguments.pop(0)]
        command.make_context("dalle-server", arguments)


def test_commands_in_tables_parse_and_tests_that_are_named_are_there() -> None:
    page = PAGES["docs/checkpoints.md"]
    lines = re.findall(r"^\|.*`dalle-server ([^`]*)` \|$", page, re.MULTILINE)
    assert len(lines) >= 8
    for line in lines:
        command: Any = typer.main.get_command(app)
        arguments = shlex.split(line)
        command.commands[arguments.pop(0)].make_context("dalle-server", arguments)
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page)
    assert len(named) >= 10
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"


def test_links_lead_somewhere() -> None:
    for page, text in PAGES.items():
        for target in re.findall(r"\]\((?!https?:)([^)]*)\)", text):
            path, _, anchor = target.partition("#")
            file = (ROOT / page).parent / path if path else ROOT / page
            assert file.exists(), f"{page}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
                assert anchor in anchors, f"{page}: {target}"


def test_the_readme_is_short_and_its_pictures_are_small() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 150
    assert len(re.findall(r"!\[", PAGES["README.md"])) == 2
    sheets = list((ROOT / "docs" / "sheets").iterdir())
    assert len(sheets) >= 10
    assert [sheet.name for sheet in sheets if sheet.suffix != ".webp" or sheet.stat().st_size > 200_000] == []


def test_the_tree_is_there() -> None:
    (tree,) = re.findall(r"```text\n(.*?)```", PAGES["README.md"], re.DOTALL)
    folder = ""
    for line in tree.splitlines():
        names = re.split(r" {2,}", line.strip())[0].split(", ")
        for name in names:
            path = folder + name if line.startswith("  ") else name
            assert (ROOT / path).exists(), path
        if not line.startswith("  "):
            folder = names[0]


def test_every_file_that_the_architecture_names_is_there() -> None:
    """A name without a folder is in the folder of the path before it."""
    folder, named = ROOT, 0
    for path in re.findall(r"`([\w./*]+(?:\.\w+|/))`", PAGES["docs/architecture.md"]):
        if path.startswith(("app/", "model/", "tests/")):
            folder = (ROOT / path).parent
            assert list(ROOT.glob(path.rstrip("/"))), path
        elif "/" not in path and path.endswith(".py") and "NAME" not in path:
            assert (folder / path).is_file(), f"{path} in {folder}"
        else:
            continue
        named += 1
    assert named >= 60


def test_settings_without_a_flag_are_all_told() -> None:
    table = PAGES["docs/operations.md"].partition("| variable | meaning |")[2].partition("\n\n")[0]
    told = [row.partition(" | ")[0] for row in table.splitlines()]
    schema = Settings.model_json_schema(by_alias=False)["properties"]
    assert set(re.findall(r"`DALLE_(\w+)`", " ".join(told))) == {
        name.upper() for name in schema if "panel" not in schema[name]
    }


def test_make_targets_and_dependencies_are_all_named() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"\.PHONY: (.*)", makefile)
    assert phony is not None
    assert set(re.findall(r"`make ([\w-]+)` \|", PAGES["docs/operations.md"])) == set(phony[1].split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    table = PAGES["CONTRIBUTING.md"].partition("## Dependencies")[2]
    for line in (*project["dependencies"], *extras):
        name = re.split(r"[\[<>=]", line)[0]
        assert name == project["name"] or re.search(rf"\b{re.escape(name)}\b", table), name
