"""The sheets: what stands on them, and that they are painted."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from model.drawings.concepts import evocations, ordinary
from model.recipes.default.sheets import IDEAS
from tests.running import Run


def test_the_gallerys_ideas_were_not_taught() -> None:
    taught = {text for texts in evocations().values() for text in texts}
    assert not taught.union(*map(ordinary, ("nouns", "doings", "clauses"))).intersection(IDEAS)


def test_gallery_paints_a_sheet_of_prompts(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red apple\n\na cat\n")
    done = run("gallery", "--prompts", "prompts.txt", "-o", "sheet.webp", "--weights", tiny_checkpoint)
    assert (done.status, done.out.split()) == (0, ["sheet.webp"])
    with Image.open(tmp_path / "sheet.webp") as sheet:
        assert sheet.width > 2 * 160
    assert run("gallery", "--sheet", "rare", "--weights", tiny_checkpoint).status == 2
    refused = run("gallery", "--sheet", "all", "-o", "sheet.webp", "--weights", tiny_checkpoint)
    assert "--out must be a folder for all sheets, got the file sheet.webp" in refused.err
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    odd = run("gallery", "-o", "sheet.jpg", "--weights", tiny_checkpoint)
    assert "--out must be a .webp file, got sheet.jpg" in odd.err


@pytest.mark.parametrize("sheet", ["continuation", "best_of", "counts"])
def test_gallery_paints_a_sheet_of_each_capability(sheet: str, run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    done = run("gallery", "--sheet", sheet, "-o", f"{sheet}.webp", "--columns", 8, "--weights", tiny_checkpoint)
    assert (done.status, done.out.split()) == (0, [f"{sheet}.webp"])
    with Image.open(tmp_path / f"{sheet}.webp") as image:
        assert image.width > 4 * 160  # eight columns, smaller where noise does not fit into so few bytes
        assert image.height > 2 * 160
    assert (tmp_path / f"{sheet}.webp").stat().st_size <= 200_000
