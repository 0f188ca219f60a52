"""The loop alone, on a linear model: what a saved state holds, and that older ones are still read."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from model.errors import DataError
from model.training.loop import save_state, train
from tests.training.test_events import run


def test_a_state_without_a_place_in_the_data_resumes_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = [line["loss"] for line in train(run(tmp_path / "whole"), "linear").history]
    train(run(tmp_path / "old", minutes=0.0), "linear")
    path = tmp_path / "old" / "state.pt"
    state = torch.load(path, weights_only=True)
    del state["data"]  # as earlier versions wrote it
    torch.save(state, path)
    assert [line["loss"] for line in train(run(tmp_path / "old"), "linear").history] == expected
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_place_in_the_data_is_saved_and_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = run(tmp_path)
    first.position = lambda step: {"shards": "a", "row": step}
    save_state(first)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["data"] == {"shards": "a", "row": 0}
    again = run(tmp_path, steps=1)
    again.position = lambda step: {"shards": "b", "row": step}
    train(again, "linear")
    assert "in another order" in caplog.text


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    train(run(tmp_path, minutes=0.0), "linear")
    other = run(tmp_path)
    other.model = torch.nn.Linear(4, 1)
    with pytest.raises(DataError, match="of another model"):
        train(other, "linear")
