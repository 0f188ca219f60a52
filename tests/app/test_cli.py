"""The command line, run in this process: what it writes, and that an error is one line and no traceback."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import resource
import shutil
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import typer.main
from PIL import Image

import model
from app import cli
from app.batch.folder import slug
from app.commands.common import save_image
from app.commands.generate import numbered
from model.errors import DataError
from tests.running import Result, Run, runner


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `dalle-server` with these arguments in an empty folder."""
    return runner("dalle-server", cli.main, capsys, monkeypatch, tmp_path)


def one_line(result: Result) -> str:
    """The line on stderr of a command that failed as it should."""
    assert result.status == 1
    lines = result.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("dalle-server: ")
    return lines[0]


def test_help_names_the_commands(run: Run) -> None:
    shown = run("--help")
    assert shown.status == 0
    for command in ("serve", "generate", "caption", "reconstruct", "inspect", "corpus", "train", "evaluate", "export"):
        assert command in shown.out
    assert run("--version").out.split() == ["dalle-server", model.__version__]
    assert run("paint").status == 2


def options(command: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(command, option) of every option of the program."""
    for parameter in command.params:
        if parameter.param_type_name == "option":
            yield path, parameter.name
    for name, inner in getattr(command, "commands", {}).items():
        yield from options(inner, f"{path} {name}".strip())


def test_the_commands_have_few_options() -> None:
    counts = Counter(path for path, _ in options(typer.main.get_command(cli.app)))
    assert sum(counts.values()) <= 150
    assert counts["train transformer"] <= 20
    for command in ("train vae", "train clip", "train reviser"):
        assert 10 <= counts[command] <= 15


def test_one_picture_carries_its_seed(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    done = run("generate", "a red apple", "--seed", 7, "--weights", tiny_checkpoint, "--device", "cpu")
    assert done.status == 0
    assert done.out.split() == ["a-red-apple.png"]
    assert "seed 7" in done.err
    with Image.open(tmp_path / "a-red-apple.png") as image:
        assert image.size == (256, 256)
        assert (image.info["Seed"], image.info["Index"], image.info["Prompt"]) == ("7", "0", "a red apple")
        painted = model.load(tiny_checkpoint, "cpu").generate("a red apple", seed=7)[0]
        assert image.convert("RGB").tobytes() == painted.tobytes()


def test_several_pictures_are_a_grid_or_files(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    common = ("generate", "a cat", "-n", 2, "--out", "cat.png", "--seed", 1, "--weights", tiny_checkpoint)
    assert run(*common).status == 0
    with Image.open(tmp_path / "cat.png") as grid:
        assert grid.width > 512
        assert grid.info["Seed"] == "1"
    separate = run(*common, "--separate")
    assert separate.out.split() == ["cat-1.png", "cat-2.png"]
    for i, name in enumerate(separate.out.split()):
        with Image.open(tmp_path / name) as image:
            assert image.info["Index"] == str(i)


def test_the_best_pictures_are_kept(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    common = ("generate", "a cat", "--out", "cat.png", "--seed", 1, "--weights", tiny_checkpoint)
    done = run(*common, "--best-of", 2)
    assert re.search(r"2 in \d+\.\d s, seed 1, score -?\d\.\d{3}$", " ".join(done.err.split()))
    with Image.open(tmp_path / "cat.png") as image:
        best = model.load(tiny_checkpoint, "cpu").generate("a cat", seed=1, best_of=2)[0]
        assert image.convert("RGB").tobytes() == best.tobytes()
        assert image.info["Index"] == str(best.info["index"])
    assert "best_of must be an integer from n, which is 2" in run(*common, "-n", 2, "--best-of", 1).err
    assert run("generate", "--like", "cat.png", "--best-of", 2, "--weights", tiny_checkpoint).status == 2


def test_a_text_is_completed_line_by_line(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    weights = ("--weights", tiny_checkpoint)
    done = run("caption", "a red", "-n", 2, "--seed", 1, "--tokens", 4, "--temperature", 0, *weights)
    (once,) = model.load(tiny_checkpoint, "cpu").complete("a red", seed=1, tokens=4, temperature=0)
    assert done.out == f"{once}\n{once}\n"
    assert "top_k must be an integer from 0 to 512, got -1" in one_line(
        run("caption", "a red", "--top-k", -1, *weights)
    )
    (text,) = model.load(tiny_checkpoint, "cpu").complete("a red", seed=3)
    assert run("generate", "a red", "--complete", "--seed", 3, "--out", "red.png", *weights).status == 0
    with Image.open(tmp_path / "red.png") as image:
        assert image.info["Prompt"] == text


def test_a_prompt_in_any_script_goes_into_the_picture(tmp_path: Path) -> None:
    save_image(Image.new("RGB", (8, 8)), tmp_path / "x.png", {"prompt": "红苹果 🍎"})
    with Image.open(tmp_path / "x.png") as image:
        assert image.info["prompt"] == "红苹果 🍎"
    with pytest.raises(DataError, match="y.webp: cannot be written"):
        save_image(Image.new("RGB", (8, 8)), tmp_path / "x.png" / "y.webp", {})


def test_file_names() -> None:
    assert slug("A red apple, please!") == "a-red-apple-please"
    assert slug("🍎") == "picture"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert len(slug("word " * 100)) <= 60
    assert slug("\U00020000" * 60) == "\U00020000" * 30  # file systems count bytes
    assert numbered(Path("a/b.png"), 2) == [Path("a/b-1.png"), Path("a/b-2.png")]


def test_an_error_is_one_line(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    weights = ("--weights", tiny_checkpoint)
    assert "nowhere: no such folder" in one_line(run("generate", "a cat", "--weights", "nowhere"))
    assert r"no\x1b[2J: no such folder" in one_line(run("generate", "a cat", "--weights", "no\x1b[2J"))
    assert "--out must be in a folder that exists, got gone/cat.png" in one_line(
        run("generate", "a cat", "-o", "gone/cat.png", *weights)
    )
    assert "--out must end in one of .png, .jpg, .jpeg, .webp, got cat.bmpx" in one_line(
        run("generate", "a cat", "-o", "cat.bmpx", *weights)
    )
    (tmp_path / "folder.png").mkdir()
    assert (
        "--out must be a file, got the folder folder.png" in run("generate", "a cat", "-o", "folder.png", *weights).err
    )
    assert "text must have at most 256 text tokens" in run("generate", "a cat " * 300, *weights).err
    assert (
        "temperature must be a number from 0 to 5, got 9.0"
        in run("generate", "a cat", "--temperature", 9, *weights).err
    )
    assert run("generate", "a cat", "-n", 0, *weights).status == 2
    assert run("generate", "a cat", "-n", "many", *weights).status == 2
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png must be a picture of a known format" in one_line(run("reconstruct", "text.png", *weights))
    assert "gone.png: cannot be read: No such file" in one_line(run("reconstruct", "gone.png", *weights))


def test_replicas_need_ray(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert '--ray needs .venv/bin/pip install -e ".[ray]"' in one_line(run("serve", "--ray"))


def test_reconstruct_paints_a_sheet(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (300, 100), (255, 0, 0, 128)).save(tmp_path / "wide.png")
    Image.new("L", (10, 40), 200).save(tmp_path / "small.jpg")
    done = run("reconstruct", "wide.png", "small.jpg", "--out", "sheet.png", "--weights", tiny_checkpoint)
    assert (done.status, done.out.split()) == (0, ["sheet.png"])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width >= 2 * 192
        assert sheet.height >= 2 * 192


def test_inspect_explains_a_checkpoint(run: Run, tiny_checkpoint: Path) -> None:
    shown = run("inspect", tiny_checkpoint)
    assert (shown.status, shown.err) == (0, "")
    for word in (
        "tiny",
        "Apache-2.0",
        "transformer parameters",
        "vae.decoder parameters",
        "config.json",
        "8,192 codes",
    ):
        assert word in shown.out
    assert "every sum and every tensor matches" in shown.out


def test_a_checkpoint_cannot_send_control_codes_to_the_terminal(
    run: Run, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    file = tmp_path / "copy" / "config.json"
    values = json.loads(file.read_text())
    values["provenance"] = {"[/x]\x1b[2J": "\x1b]0;mine\x07[bold]\r", "[red]": {"\x1b": ["\x1b"]}}
    file.write_text(json.dumps(values))
    (tmp_path / "copy" / "[red]\x1b[2J").write_text("")
    listed = tmp_path / "copy" / "SHA256SUMS"
    was, now = (sha256(path.read_bytes()).hexdigest() for path in (tiny_checkpoint / "config.json", file))
    listed.write_text(listed.read_text().replace(was, now))
    shown = run("inspect", "copy")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.replace("\n", "").isprintable()
    assert "[red]" in shown.out


def test_inspect_names_every_damage(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    (tmp_path / "copy" / "tokenizer.json").unlink()
    (tmp_path / "copy" / "notes.txt").write_text("mine")
    shard = next((tmp_path / "copy").glob("vae-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    shown = run("inspect", "copy")
    assert shown.status == 1
    lines = shown.err.splitlines()
    assert len(lines) == 2
    assert any("tokenizer.json: no such file" in line for line in lines)
    assert any(f"{shard.name}: altered or cut short" in line for line in lines)
    assert "not listed" in shown.out
    assert "no such folder" in one_line(run("inspect", "gone"))


def test_a_picture_that_does_not_fit_the_disk_leaves_the_old_file(tmp_path: Path) -> None:
    old = tmp_path / "old.png"
    old.write_text("old")
    noise = Image.frombytes("RGB", (64, 64), random.Random(1).randbytes(3 * 64**2))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # writing more fails, as on a full disk
    try:
        for path in (old, tmp_path / "new.png"):
            with pytest.raises(DataError, match=rf"^{path}: cannot be written: "):
                save_image(noise, path, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.png", "old")]
