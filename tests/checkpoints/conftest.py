"""A small checkpoint with every section, for the tests that damage it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from model.checkpoints import load, save
from model.config import ReviserConfig, Style, from_preset
from model.reviser import Reviser
from model.styles import Styles
from tests.app.quick import save_quick
from tests.conftest import randomise


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with every section. Shared by the session: copy it before you damage it."""
    folder = tmp_path_factory.mktemp("whole")
    quick = load(save_quick(folder / "quick"))
    reviser = Reviser(from_preset(ReviserConfig, "tiny", text_vocab=quick.tokenizer.vocab_size))
    randomise(reviser, seed=4)
    styles = Styles((Style("flat"), Style("3d", "3d", "things-3d.txt")), (None, ("cat", "sun")))
    more = {"provenance": {"data": "none"}, "created": 1, "styles": styles.styles}
    config = dataclasses.replace(quick.config, reviser=reviser.config, **more)  # type: ignore[arg-type]
    save(
        folder / "whole", config, quick.tokenizer, quick.vae, quick.transformer, torch.float32, clip=quick.clip,
        reviser=reviser, styles=styles,
    )  # fmt: skip
    return folder / "whole"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))
