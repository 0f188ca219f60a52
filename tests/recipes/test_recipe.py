"""recipe.toml: its commands are commands, its files are there, and a stage runs them in order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from PIL import Image

from app.cli import app
from model.checkpoints import load
from model.config import TransformerConfig, from_preset
from model.errors import DataError
from model.recipes.default.commands import cli
from model.recipes.default.recipe import RECIPE, Step, read
from model.training.selection import read_concepts
from tests.running import Run

ROOT = Path(__file__).parent.parent.parent
STEPS = [step for named in read().values() for steps in named.values() for step in steps]


def test_a_step_is_told_as_it_is_typed() -> None:
    knobs = {"adam_lr": 6e-4, "mix": {"pair": 0.5, "count": 1}, "sources": ["flag", "fluent-3d"]}
    options = {"one-each": True, "source": ["flag", "a b"], "batch": 4, "set": knobs}
    step = Step("dalle-server", "train vae", ("data/x",), options)
    assert str(step) == (
        "dalle-server train vae data/x --one-each --source flag --source 'a b' --batch 4 "
        "--set adam_lr=0.0006 --set mix=pair:0.5,count:1 --set sources=flag,fluent-3d"
    )


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_every_command_parses(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command: Any = typer.main.get_command(app if step.program == "dalle-server" else cli.app)
    arguments = step.arguments
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    command.make_context("recipe", arguments)


def test_the_files_that_it_names_are_there_and_list_concepts() -> None:
    values = [value for step in STEPS for value in (*step.options.values(), *step.options.get("set", {}).values())]
    files = {str(value).removeprefix("@") for value in values if str(value).endswith(".txt")}
    assert {Path(file).name for file in files} == {"concepts.txt", "dyed.txt", "paired.txt", "styled.txt"}
    listed = {Path(file).stem: set(read_concepts(ROOT / file)) for file in files}
    assert all(listed.values())
    assert listed["paired"] <= listed["concepts"]


def test_what_is_learnt_or_measured_is_built_or_ships() -> None:
    named = read()
    made = {
        str(step.options["out"]) for steps in (*named["build"].values(), *named["train"].values()) for step in steps
    }
    for step in STEPS:
        needed = [
            *step.data,
            *(str(step.options[name]) for name in ("vae", "start", "held-out") if name in step.options),
        ]
        assert [path for path in needed if path not in made and not (ROOT / path).exists()] == []


def test_the_help_names_what_there_is(run: Run) -> None:
    for stage, named in read().items():
        shown = re.sub(r"[^\w,]+", " ", run(stage, "--help").out)
        assert ", ".join(named) in shown


def test_a_dry_run_prints_and_the_preset_is_that_of_who_knows_it(run: Run) -> None:
    first = run("build", "--dry-run")
    assert first.out == "python -m model.recipes.default corpus --out data/corpus\n"
    for preset, reviser in (("small", "default"), ("tiny", "tiny")):
        lines = run("train", "--preset", preset, "--dry-run").out.splitlines()
        assert [line.split()[1:3] for line in lines] == [
            ["train", "vae"], ["train", "transformer"], ["train", "clip"], ["train", "reviser"],
            ["export", "runs/transformer"],
        ]  # fmt: skip
        asked = [found[1] for line in lines if (found := re.search(r"--preset (\w+)", line))]
        assert asked == [preset, preset, preset, reviser]
    assert "--preset" not in run("train", "on", "--preset", "tiny", "--dry-run").out
    assert run("train", "--preset", "huge", "--dry-run").status == 2
    unknown = run("build", "taught", "nothing")
    assert (unknown.status, "nothing" in unknown.err) == (2, True)


MINE = """
[[build.there]]
run = "python -m model.recipes.default corpus"
out = "data"
[[train.all]]
run = "dalle-server train vae"
data = ["data"]
preset = "default"
out = "vae"
steps = 1
batch = 2
[[train.all]]
run = "dalle-server train transformer"
data = ["data"]
preset = "default"
vae = "vae"
out = "t"
steps = 1
batch = 2
prompt = ["a square"]
[[train.all]]
run = "dalle-server export"
data = ["t"]
vae = "vae"
out = "mine"
[[sheets.all]]
run = "python -m model.recipes.default gallery"
weights = "mine"
prompts = "prompts.txt"
out = "sheet.webp"
[[sheets.all]]
run = "python -m model.recipes.default gallery"
weights = "nowhere"
[[sheets.all]]
run = "python -m model.recipes.default gallery"
weights = "mine"
prompts = "prompts.txt"
out = "never.webp"
"""


@pytest.mark.slow
def test_the_stages_run_their_commands_and_stop_at_the_first_that_fails(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the commands run in processes of their own, in the test's folder
    pictures = tmp_path / "data"
    pictures.mkdir()
    for at, colour in enumerate(("red", "green", "blue", "black", "white", "gray")):
        picture = Image.new("RGB", (256, 256), colour)
        picture.paste("orange", (90, 90, 160, 160))
        picture.save(pictures / f"{at}.png")
        (pictures / f"{at}.txt").write_text(f"an orange square on {colour}")
    (pictures / "manifest.json").write_text("{}")
    recipe = tmp_path / "mine.toml"
    recipe.write_text(MINE)
    (tmp_path / "prompts.txt").write_text("a square\n")
    built = run("build", "--recipe", recipe)
    assert (built.status, built.err) == (0, "data: is there already\n")
    assert run("train", "--recipe", recipe, "--preset", "tiny").status == 0
    assert load(tmp_path / "mine").config.transformer == from_preset(TransformerConfig, "tiny", text_vocab=8192)
    assert run("sheets", "--recipe", recipe).status == 1
    assert (tmp_path / "sheet.webp").exists()
    assert not (tmp_path / "never.webp").exists()


def test_the_recipes_commands_in_readme_and_card_parse() -> None:
    texts = [
        (ROOT / name).read_text(encoding="utf-8") for name in ("docs/training.md", "weights/default/MODEL_CARD.md")
    ]
    lines = re.findall(
        r"^(?:    )?(?:\.venv/bin/)?python -m model\.recipes\.default ([^#\n]+)", "\n".join(texts), re.MULTILINE
    )
    assert len(lines) >= 8
    for line in lines:
        stage, *arguments = shlex.split(line)
        command: Any = typer.main.get_command(cli.app)
        if "--help" not in arguments:
            names = command.commands[stage].make_context("recipe", arguments).params.get("names") or ()
            assert not set(names) - read().get(stage, {}).keys(), line


def test_a_recipe_that_cannot_be_read_is_one_line(run: Run, tmp_path: Path) -> None:
    for text, told in (("[[build.x]]\nrun = 'rm -rf x'\n", "build.x: run must begin with"), ("[", "cannot be read")):
        (tmp_path / "bad.toml").write_text(text)
        done = run("build", "--recipe", tmp_path / "bad.toml")
        assert done.status == 1
        assert told in done.err
        assert done.err.count("\n") == 1
    with pytest.raises(DataError, match=r"gone\.toml: cannot be read"):
        read(tmp_path / "gone.toml")
    assert RECIPE.exists()
