"""A checkpoint gets its styles from the recipe, and its figures are measured in them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import model
from model.checkpoints import load
from model.recipes.default.evaluation.album import Album
from tests.revising import KITTEN
from tests.running import Run
from tests.styling import CAT, with_styles


def test_styles_are_written_into_a_checkpoint(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copytree(tiny_checkpoint, tmp_path / "new"))
    (tmp_path / "clean.txt").write_text("cat-face\nsun\nzorb\n")
    (tmp_path / "old.txt").write_text("red-apple\n")
    done = run("styles", "3d=clean.txt", "Pixel Art=old.txt", "--weights", weights)
    assert done.status == 0, done.err
    assert done.out.splitlines() == ["flat: everything", "3d: 3 things", "pixel-art: 1 things"]
    found = load(weights)
    assert found.styles.names == ("flat", "3d", "pixel-art")
    assert found.styles.things == (None, ("cat", "sun", "zorb"), ("red apple",))
    assert found.styles.choose("the sun", "3d").text == "a 3d sun"
    assert found.styles.choose("a red apple", "pixel-art").text == "a Pixel Art red apple"
    before = load(tiny_checkpoint)
    assert found.config.name == before.config.name
    for name, tensor in before.transformer.state_dict().items():
        assert tensor.equal(found.transformer.state_dict()[name])
    assert run("styles", "3d=old.txt", "--weights", weights).status == 0  # instead of those
    assert load(weights).styles.names == ("flat", "3d")
    assert not (weights / "things-pixel-art.txt").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("3d=none.txt", "none.txt: cannot be read: No such file or directory"),
        ("3d", ": cannot be read: Is a directory"),
        ("3d=twice.txt", "twice.txt: line 2 names 'cat' again"),
        ("auto=good.txt", "auto: name: must be letters a to z, digits and single hyphens"),
        ("flat=good.txt", "styles: must differ in their name, got 'flat' twice"),
    ],
)
def test_what_are_no_styles_is_said_and_changes_nothing(
    given: str, told: str, run: Run, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    weights = Path(shutil.copytree(tiny_checkpoint, tmp_path / "new"))
    (tmp_path / "twice.txt").write_text("cat\ncat\n")
    (tmp_path / "good.txt").write_text("cat\n")
    done = run("styles", given, "--weights", weights)
    assert done.status == 1
    assert told in done.err
    assert load(weights).styles.names == ()


def test_figures_are_of_the_first_style_and_variety_is_of_all(tiny_checkpoint: Path, tmp_path: Path) -> None:
    painter = model.load(with_styles(tiny_checkpoint, tmp_path / "styled"), "cpu")
    album = Album(painter, tmp_path, 3, painter.sampling(0, temperature=0.5))
    seed = album.params(KITTEN).seed
    ((one, other),) = album.paint([KITTEN], 2)
    flat = painter.generate(CAT, 2, seed=seed, temperature=0.5, revise=False)
    assert [one.image.tobytes(), other.image.tobytes()] == [image.tobytes() for image in flat]
    ((first, second),) = album.paint([KITTEN], 2, style="auto")
    auto = painter.generate(KITTEN, 2, seed=seed, temperature=0.5)
    assert {image.info["style"] for image in auto} == {"flat", "3d"}
    assert [first.image.tobytes(), second.image.tobytes()] == [image.tobytes() for image in auto]
