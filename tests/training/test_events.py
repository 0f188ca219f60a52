"""TensorBoard's event files: what a run writes into them, and that it does without the package too."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]
from torch import Tensor, nn

from model.training.loop import Place, Run, train
from model.training.options import LoopOptions


def run(out: Path, **changes: Any) -> Run[Any]:
    """Three steps of a linear model."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def batch_at(step: int, first: int, end: int) -> Tensor:
        return torch.full((end - first, 3), float(step))

    values: dict[str, Any] = {
        "steps": 3,
        "batch": 2,
        "warmup": 2,
        "report_every": 1,
        "save_every": 1,
        "sample_every": 3,
    }
    return Run(
        model=model,
        optimizers=[torch.optim.AdamW(model.parameters(), lr=0.5), torch.optim.SGD(model.parameters(), lr=0.25)],
        options=LoopOptions(out=out, **{**values, **changes}),
        place=Place(torch.device("cpu"), None),
        batch_at=batch_at,
        losses=lambda model, batch: {"loss": model(batch).square().mean()},
        evaluate=lambda _: {"psnr": 30.0},
        sample=lambda _, path: Image.new("RGB", (40, 30), "red").save(path),
    )


def events(folder: Path) -> list[Any]:
    """All events of all files, in the order of their names. A record is its length, a checksum, itself, a checksum."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def figures(folder: Path, tag: str) -> dict[int, float]:
    return {
        event.step: value.simple_value for event in events(folder) for value in event.summary.value if value.tag == tag
    }


def test_losses_rates_speed_and_sheets_are_written(tmp_path: Path) -> None:
    done = train(run(tmp_path), "linear")
    assert figures(tmp_path, "loss") == pytest.approx({int(line["step"]): line["loss"] for line in done.history})
    assert figures(tmp_path, "learning_rate/adamw") == pytest.approx({1: 0.25, 2: 0.5, 3: 0.4183}, rel=1e-3)
    assert figures(tmp_path, "learning_rate/sgd")[2] == 0.25
    assert min(figures(tmp_path, "samples_per_second").values()) > 0
    assert figures(tmp_path, "psnr") == {3: 30.0}
    [image] = [value.image for event in events(tmp_path) for value in event.summary.value if value.tag == "samples"]
    assert (image.width, image.height) == (40, 30)


def test_a_resumed_run_adds_to_them(tmp_path: Path) -> None:
    for _ in range(2):
        train(run(tmp_path, minutes=0.0), "linear")  # one step
    assert sorted(figures(tmp_path, "loss")) == [1, 2]


def test_without_the_package_training_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = train(run(tmp_path / "with"), "linear")
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    found = train(run(tmp_path / "without"), "linear")
    assert [line["loss"] for line in found.history] == [line["loss"] for line in expected.history]
    assert not events(tmp_path / "without")
    assert (tmp_path / "without" / "samples-0000003.png").exists()


def test_a_full_disk_costs_the_event_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = open

    def full(name: Any, *given: Any, **more: Any) -> Any:
        return opened("/dev/full" if "tfevents" in str(name) else name, *given, **more)

    monkeypatch.setattr("builtins.open", full)
    assert len(train(run(tmp_path, steps=15), "linear").history) == 15  # a queue of tensorboardX holds 10 events
    assert (tmp_path / "state.pt").exists()
    [told] = [record.getMessage() for record in caplog.records if "tfevents" in record.getMessage()]
    assert str(tmp_path / "events.out.tfevents.") in told
    assert told.endswith(": cannot be written: No space left on device; the run goes on without it")
