"""The loop alone, on a linear model: what a saved state holds, what ends a run, and what it leaves then."""

from __future__ import annotations

import itertools
import json
import logging
import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.config import ClipConfig, ReviserConfig, TransformerConfig, VAEConfig, from_preset
from model.errors import DataError, TrainingStopped
from model.training.loop import Run, save_state, train
from model.training.optimizers import schedule
from model.training.run_folder import load_average, locked, write_config
from model.vae import VAE
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
    with pytest.raises(DataError, match="of another model; name another folder"):
        train(other, "linear")


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["step"])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if "tfevents" not in path.name}


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def bad_loss(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    return {"loss": model(batch).square().mean() + (torch.nan if batch[0, 0] == 4 else 0)}


def bad_gradient(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    return {"loss": (model(batch).square().mean() * (batch[0, 0] != 4)).sqrt()}  # its slope at 0 is infinite


@pytest.mark.parametrize(("bad", "what"), [(bad_loss, "its loss"), (bad_gradient, "its gradient")])
def test_a_step_that_is_not_finite_ends_the_run_and_is_not_saved(tmp_path: Path, bad: Any, what: str) -> None:
    expected = train(run(tmp_path / "good", steps=6), "linear").history
    diverging = run(tmp_path / "run", steps=6, save_every=3, report_every=2)
    diverging.losses = bad
    with pytest.raises(DataError, match=rf"step 5 is not finite \({what}\).*state.pt has the last good state"):
        train(diverging, "linear")
    assert step_of(tmp_path / "run" / "state.pt") == 3
    again = train(run(tmp_path / "run", steps=6), "linear")
    assert again.history[-1]["loss"] == expected[-1]["loss"] if bad is bad_loss else again.step == 6
    assert all(map(torch.isfinite, map(torch.tensor, losses(tmp_path / "run"))))


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    train(run(tmp_path, steps=2), "linear")
    diverging = run(tmp_path, steps=3)

    def overflowing(_: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            diverging.model.get_parameter("weight")[0, 0] = torch.inf  # as a step that is too long would
        return {}

    diverging.evaluate = overflowing
    with pytest.raises(DataError, match=r"step 3 is not finite \(model.weight\)"):
        train(diverging, "linear")
    assert (step_of(tmp_path / "state.pt"), step_of(tmp_path / "state-before.pt")) == (2, 1)
    assert len(losses(tmp_path)) == 2


def test_a_figure_that_is_no_number_is_null_in_the_log(tmp_path: Path) -> None:
    one = run(tmp_path, steps=1)
    one.evaluate = lambda _: {"psnr": float("nan")}
    train(one, "linear")
    assert json.loads((tmp_path / "log.jsonl").read_text())["psnr"] is None


DAMAGE = {
    "empty": lambda data: data[:0],
    "cut": lambda data: data[: len(data) // 2],
    "garbled": lambda data: data[:100] + b"?" * 300 + data[400:],
    "text": lambda data: data[:0] + b"hello\n",
    "a pickle": lambda data: data[:0] + b"\x80\x04N.",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_state_is_told_with_what_to_do(tmp_path: Path, how: str) -> None:
    train(run(tmp_path, steps=2), "linear")
    path = tmp_path / "state.pt"
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    with pytest.raises(DataError) as caught:
        train(run(tmp_path), "linear")
    assert str(caught.value).startswith(f"{path}: cut short or damaged; to go on from the state before it, rename")
    (tmp_path / "state-before.pt").replace(path)
    assert train(run(tmp_path), "linear").step == 3
    for name in ("state.pt", "state-before.pt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "state-before.pt").unlink()
    with pytest.raises(DataError, match=r"remove it, and .*log.jsonl, to begin this run anew"):
        train(run(tmp_path), "linear")


def test_a_state_with_weights_that_are_not_finite_is_not_read(tmp_path: Path) -> None:
    train(run(tmp_path, steps=2), "linear")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state["average"]["bias"].fill_(torch.nan)
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(DataError, match="its weights are not finite; to go on from the state before it"):
        train(run(tmp_path), "linear")


def test_a_run_whose_state_was_removed_does_not_begin_anew_over_the_one_before(tmp_path: Path) -> None:
    train(run(tmp_path, steps=2), "linear")
    (tmp_path / "state.pt").unlink()
    with pytest.raises(DataError, match=r"rename .*state-before.pt to state.pt to go on"):
        train(run(tmp_path), "linear")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"levels": NaN}'])
def test_a_damaged_config_is_told_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    config = from_preset(VAEConfig, "tiny")
    (tmp_path / "config.json").write_bytes(content)
    for use in (lambda: write_config(tmp_path, config), lambda: load_average(tmp_path, VAEConfig, VAE)):
        with pytest.raises(DataError, match="config.json: not JSON.*; remove it and run the command of this run again"):
            use()
    (tmp_path / "config.json").unlink()
    write_config(tmp_path, config)
    write_config(tmp_path, config)
    assert names(tmp_path) == {"config.json"}


def test_a_run_of_another_stage_is_told(tmp_path: Path) -> None:
    for kind, stage in ((VAEConfig, "vae"), (TransformerConfig, "transformer"), (ClipConfig, "clip"),
                        (ReviserConfig, "reviser")):  # fmt: skip
        write_config(tmp_path / stage, from_preset(kind, "tiny"))
    with pytest.raises(DataError, match="must hold a run of `train vae`, got one of `train clip`"):
        load_average(tmp_path / "clip", VAEConfig, VAE)
    with pytest.raises(DataError, match="must hold a run of `train reviser`, got one of `train transformer`"):
        load_average(tmp_path / "transformer", ReviserConfig, VAE)  # type: ignore[arg-type]
    write_config(tmp_path, from_preset(VAEConfig, "tiny"))
    train(run(tmp_path, steps=1), "linear")
    with pytest.raises(DataError, match="its weights are not those of the model in"):
        load_average(tmp_path, VAEConfig, VAE)


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(DataError, match="another process trains in this folder"):  # noqa: SIM117
        with locked(tmp_path / "run"):
            pass
    with locked(tmp_path / "run"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/run: cannot be written: Not a directory"):  # noqa: SIM117
        with locked(tmp_path / "file" / "run"):
            pass


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Whoever runs the tests in the background may have told them to ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def signalled(out: Path, step: int, *signals: signal.Signals, **changes: Any) -> Run[Any]:
    """The run, in whose given step these signals come."""
    made = run(out, **changes)
    batch_at = made.batch_at

    def with_signals(at: int, first: int, end: int) -> Any:
        if at == step:
            for number in signals:
                os.kill(os.getpid(), number)
        return batch_at(at, first, end)

    made.batch_at = with_signals
    return made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_and_the_state_is_saved(tmp_path: Path, number: signal.Signals) -> None:
    many = {"steps": 9, "report_every": 4, "save_every": 100}
    train(run(tmp_path / "whole", **many), "linear")
    handler = signal.getsignal(number)
    with pytest.raises(TrainingStopped, match="stopped after step 6; its state is saved") as stopped:
        train(signalled(tmp_path / "run", 5, number, **many), "linear")
    assert stopped.value.signal == number
    assert signal.getsignal(number) is handler
    assert step_of(tmp_path / "run" / "state.pt") == 6
    train(run(tmp_path / "run", **many), "linear")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_second_signal_ends_the_run_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(signalled(tmp_path, 2, signal.SIGINT, signal.SIGINT), "linear")
    assert step_of(tmp_path / "state.pt") == 2


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_names_the_file_and_leaves_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    train(run(tmp_path, steps=2), "linear")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = run(tmp_path, steps=3)
    with small_files(1000), pytest.raises(DataError, match=r"state.pt: cannot be written: File too large"):
        train(again, "linear")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    state = (tmp_path / "state.pt").stat().st_size
    with small_files(state + 4000), pytest.raises(DataError, match=r"loss.png: cannot be written: File too large"):
        train(again, "linear")
    assert names(tmp_path) == set(before)
    shutil.rmtree(tmp_path / "new", ignore_errors=True)
    with small_files(10), pytest.raises(DataError, match=r"config.json: cannot be written: File too large"):
        write_config(tmp_path / "new", from_preset(VAEConfig, "tiny"))
    assert names(tmp_path / "new") == set()


class Clock:
    """Ten seconds pass between two looks at it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 10.0
        return self.seconds


def test_learning_rates_fall_in_time_for_the_last_minute(tmp_path: Path) -> None:
    def rates(made: Run[Any]) -> list[float]:
        found: list[float] = []
        batch_losses, made.clock = made.losses, Clock()

        def watching(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
            over = made.elapsed / (60 * (made.options.minutes or 1))
            found.append(schedule(made.step, made.options.steps, made.options.warmup_steps, 0.4, over=over))
            return batch_losses(model, batch)

        made.losses = watching
        train(made, "linear")
        assert made.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5 * found[-1])
        return found

    many = {"steps": 1000, "report_every": 1000, "sample_every": 1000, "save_every": 1000, "warmup": 1}
    whole = rates(run(tmp_path / "whole", minutes=10.0, **many))
    assert len(whole) == pytest.approx(60, abs=2)  # ten seconds a step
    assert whole[:30] == [1.0] * 30
    assert whole[-1] < 0.06
    assert all(later <= earlier for earlier, later in itertools.pairwise(whole))
    stopped = signalled(tmp_path / "parts", 44, signal.SIGTERM, minutes=10.0, **many)
    stopped.clock = Clock()
    with pytest.raises(TrainingStopped):
        train(stopped, "linear")
    rest = rates(run(tmp_path / "parts", minutes=10.0, **many))
    assert rest[0] == pytest.approx(whole[45], abs=0.05)  # no jump upwards
    assert len(rest) == pytest.approx(len(whole) - 45, abs=2)
    assert len(rates(run(tmp_path / "parts", minutes=20.0, **many))) == pytest.approx(60, abs=3)  # with more it goes on


def test_rates_follow_the_steps_where_these_are_further_on() -> None:
    assert schedule(90, 100, 10, 0.4, over=0.1) == schedule(90, 100, 10, 0.4)
    assert schedule(10, 100, 5, 0.4, over=0.9) == pytest.approx(schedule(90, 100, 5, 0.4))
    assert schedule(0, 100, 5, 0.4, over=1.0) == 0.2  # the warm-up is one all the same
