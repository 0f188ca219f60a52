"""Batches made by other processes are those that would be made here."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from model.errors import DataError
from model.training.batches import Batch, TextOnly
from model.training.loop import train
from model.training.prefetch import prefetched, to_device, workers_for
from tests.training.test_events import run

CPU = torch.device("cpu")

# of Python 3.12 on, where other threads run beside a fork; and of PyTorch on machines with few cores
pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning", "ignore:This DataLoader will create"
)


def made(make: Any, which: range, workers: int) -> list[Any]:
    with prefetched(make, which, workers, CPU) as batches:
        return list(batches)


def test_they_come_in_order_and_from_other_processes() -> None:
    def make(index: int) -> Tensor:
        return torch.tensor([index, os.getpid()])

    which = range(3, 9)
    here, there = (torch.stack(made(make, which, workers)) for workers in (0, 2))
    assert here[:, 0].tolist() == there[:, 0].tolist() == list(which)
    assert set(here[:, 1].tolist()) == {os.getpid()}
    assert len(set(there[:, 1].tolist())) == 2
    assert os.getpid() not in there[:, 1]


def test_what_is_learnt_does_not_depend_on_them(tmp_path: Path) -> None:
    alone, helped = (train(run(tmp_path / str(workers), workers=workers), "linear") for workers in (0, 2))
    assert [line["loss"] for line in alone.history] == [line["loss"] for line in helped.history]


def test_they_need_no_shared_memory() -> None:
    """A container's /dev/shm may be too small for them."""
    (batch,) = made(lambda _: torch.zeros(500_000), range(1), 1)
    assert batch.tolist() == [0.0] * 500_000
    assert not batch.is_shared()


def test_workers_that_cannot_start_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:  # what a /dev/shm without room for semaphores does
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DataLoader, "__iter__", full)
    with pytest.raises(DataError, match="workers must be 0 .*got 1; .*No space left.*--shm-size"):
        made(lambda _: torch.zeros(1), range(1), 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_on_the_way_is_raised(workers: int) -> None:
    def make(index: int) -> Any:  # noqa: ARG001
        raise DataError("shard 3 is gone")

    with pytest.raises(DataError) as error:
        made(make, range(1), workers)
    assert str(error.value) == "shard 3 is gone"


def test_the_processes_end_with_the_block_also_in_mid_course() -> None:
    with prefetched(lambda _: torch.tensor(os.getpid()), range(50), 2, CPU) as batches:
        workers = {int(next(batches)) for _ in range(6)}
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_a_batch_is_moved_with_all_its_parts() -> None:
    one = torch.ones(1)
    batch = Batch(one, one, one, one, one, None, text_only=TextOnly(one, one, one, one))
    found = to_device(batch, torch.device("meta"))
    assert found.plain is None
    assert {part.device.type for part in (found.text, found.loss_weights, found.text_only.steps)} == {"meta"}
    assert batch.text.device.type == "cpu"
    assert to_device("a", CPU) == "a"


def test_beside_a_gpu_all_processors_but_one_make_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr("model.training.prefetch.usable_cores", lambda: 8)
    gpu = torch.device("cuda")
    assert [workers_for(None, gpu, world) for world in (1, 2, 4, 16)] == [7, 3, 1, 1]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert [workers_for(None, gpu, world) for world in (2, 4)] == [3, 0]
    assert (workers_for(None, CPU, 1), workers_for(3, CPU, 1), workers_for(0, gpu, 1)) == (0, 3, 0)
