"""`measure` and `sweep` of the recipe from the command line, with a real checkpoint that paints noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import model
from model.recipes.default.evaluation.album import Album
from model.recipes.default.evaluation.report import KEYS
from tests.revising import PAIRS, with_reviser
from tests.running import Run


def test_the_last_line_is_json_and_the_second_run_paints_nothing(
    run: Run, figures: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("measure", figures, "--weights", tiny_checkpoint, "--device", "cpu", "--quick", "--compositions", 2)
    done = run(*asked, "--parts", "vae,loss,counts", "--held-out", "nowhere")
    assert done.status == 0
    out = done.out.splitlines()
    found: dict[str, Any] = json.loads(out[-1])
    assert out[-2] == "runs/evaluation"
    assert any(line.lstrip().startswith("vae_psnr ") and "dB [" in line for line in out)
    assert set(KEYS) <= set(found)
    assert found["vae_psnr"] > 3
    assert found["n"]["counts"] == 2
    assert found["reasons"]["concept_top1"] == "this part was not run"
    assert found["model"] == "tiny"
    assert found["options"]["revise"] is True
    assert found["sampling"] == {"temperature": 0.9, "top_k": 200, "top_p": 1.0, "guidance": 2.0, "opening": 0.0}
    home = tmp_path / "runs" / "evaluation"
    assert json.loads((home / "report.json").read_text()) == found
    assert "| counts | 2 |" in (home / "report.md").read_text()
    with Image.open(home / "sheet.png") as image:
        assert image.height > 300
    monkeypatch.setattr(Album, "_paint", lambda *_: pytest.fail("painted again"))
    again = run(*asked, "--parts", "counts vae loss", "--held-out", "nowhere")
    assert again.status == 0
    assert json.loads(again.out.splitlines()[-1]) == found


def test_kept_pictures_are_those_that_the_painter_paints(tiny_checkpoint: Path, tmp_path: Path) -> None:
    painter = model.load(tiny_checkpoint, "cpu")
    params = painter.sampling(0, temperature=0.5)
    album = Album(painter, tmp_path, 3, params)
    ((first, second),) = album.paint(["a cat"], 2)
    alone = painter.generate("a cat", 2, seed=album.params("a cat").seed, temperature=0.5)
    assert [first.image.tobytes(), second.image.tobytes()] == [image.tobytes() for image in alone]
    (tmp_path / "x.png").write_bytes(b"")
    kept = sorted(tmp_path.rglob("*.png"))
    assert len(kept) == 3
    assert Album(painter, tmp_path, 3, params).paint(["a cat"], 1) == [[first]]
    assert sorted(tmp_path.rglob("*.png")) == kept
    seeds = {Album(painter, tmp_path, seed, params).params(text).seed for seed in (3, 4) for text in ("a cat", "a dog")}
    assert len(seeds) == 4


def test_pictures_of_revised_prompts_and_of_prompts_as_they_are_are_kept_apart(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painter = model.load(with_reviser(tiny_checkpoint, tmp_path / "revising"), "cpu")
    params = painter.sampling(0, temperature=0.5)
    ((revised,),) = Album(painter, tmp_path, 3, params).paint([PAIRS[0][0]])
    ((plain,),) = Album(painter, tmp_path, 3, params, revise=False).paint([PAIRS[0][0]])
    assert revised.image != plain.image
    seed = Album(painter, tmp_path, 3, params).params(PAIRS[0][0]).seed
    for kept, revise in ((revised, True), (plain, False)):
        (alone,) = painter.generate(PAIRS[0][0], seed=seed, temperature=0.5, revise=revise)
        assert kept.image.tobytes() == alone.tobytes()
    monkeypatch.setattr(Album, "_paint", lambda *_: pytest.fail("painted again"))
    assert Album(painter, tmp_path, 3, params, revise=False).paint([PAIRS[0][0]]) == [[plain]]


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("measure", "nowhere", "--parts", "vae"), 1, "nowhere: no such file or folder"),
        (("measure", "--parts", "beauty"), 2, "beauty"),
        (("measure", "--parts", ","), 2, "names no part"),
        (("measure", "--guidance", "21"), 2, "--guidance"),
        (("sweep", "nowhere", "--try", "guidance=1,3"), 1, "nowhere: no such file or folder"),
        (("sweep", "nowhere", "--try", "guidance=1,99"), 1, "guidance must be a number from 0 to 20, got 99"),
        (("sweep", "--try", "colour=1"), 2, "colour=1"),
        (("sweep", "--try", "guidance=x"), 2, "guidance=x"),
    ],
)
def test_what_cannot_be_measured_is_said(
    arguments: tuple[str, ...], status: int, told: str, run: Run, tiny_checkpoint: Path
) -> None:
    done = run(*arguments, "--weights", tiny_checkpoint, "--device", "cpu")
    assert done.status == status
    assert told in done.err
