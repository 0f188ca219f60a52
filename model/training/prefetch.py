"""Batches prefetched by worker processes.

A processor takes one to three milliseconds to draw a sample, clutter its caption and encode it. A GPU learns from some
thousand samples a second. Every batch is a function of (step, samples) alone, so it does not matter which process makes
it, nor when.

The workers are forked, so they share the data in memory, whatever their size. Batches come back as bytes through pipes.
torch would send them through /dev/shm, of which a container has 64 MB: a batch of 256 pictures' tokens takes some 5 MB,
and each worker has PREFETCH of them ready. Where that was too small, torch's workers waited for ever.
"""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from model.errors import DalleError, DataError
from model.inference.cores import usable_cores

MOST_WORKERS = 16  # each makes 800 samples a second with eight text-only targets: 16 are more than one GPU has needed
PREFETCH = 2  # batches that each worker has ready


def workers_for(asked: int | None, device: torch.device, world: int) -> int:
    """The number of workers for this training process, one of `world`.

    asked: the number asked for. None: as many as a GPU leaves processors free, at most MOST_WORKERS; 0 on a CPU, where
    workers would slow the training, and on several machines, whose network libraries may not be forked. Raises
    DataError where workers are asked for and the system cannot fork.
    """
    forks = "fork" in multiprocessing.get_all_start_methods()
    if asked is not None:
        if asked and not forks:
            raise DataError(f"workers must be 0, because this system cannot fork processes, got {asked}")
        return asked
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if device.type == "cpu" or not forks or here != world:
        return 0
    return min(MOST_WORKERS, max(1, usable_cores() // here - 1))


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch on `device`: a tensor, or a dataclass of tensors and such dataclasses. Anything else stays as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        parts = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
        return dataclasses.replace(batch, **{name: to_device(part, device) for name, part in parts.items()})
    return batch


class _Lazy(Dataset[bytes]):
    """Batches, or errors in their place, as bytes: tensors would go through /dev/shm."""

    def __init__(self, make: Callable[[int], Any], which: range) -> None:
        self._make, self._which = make, which

    def __getitem__(self, index: int) -> bytes:
        try:
            return pickle.dumps(self._make(self._which[index]), pickle.HIGHEST_PROTOCOL)
        except DalleError as error:  # returned, because the loader would put the traceback into its text
            return pickle.dumps(error)

    def __len__(self) -> int:
        return len(self._which)


def _deaf(_worker: int) -> None:
    """Ignore what a terminal or a service manager sends to all processes: the step under way needs its batches."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def prefetched(make: Callable[[int], Any], which: range, workers: int, device: torch.device) -> Iterator[Iterator[Any]]:
    """make(i) for each i of `which`, in order, on `device`. The workers end with the block.

    workers: processes; 0 makes the batches here. An error in a worker is raised where its batch would come.
    """
    if not workers:
        yield (to_device(make(i), device) for i in which)
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
    loader: DataLoader[Any] = DataLoader(
        _Lazy(make, which),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=PREFETCH,
        multiprocessing_context="fork",
        worker_init_fn=_deaf,
    )
    gc.collect()
    gc.freeze()  # else each worker's garbage collector would write to the shared memory, and so copy it
    try:
        made = iter(loader)
    except OSError as error:
        why = f"worker processes cannot start: {error.strerror}. A container's --shm-size gives them more of /dev/shm"
        raise DataError(f"workers must be 0 (--set workers=0) here, got {workers}; {why}") from None
    finally:
        gc.unfreeze()

    def here() -> Iterator[Any]:
        for sent in made:
            batch = pickle.loads(sent)
            if isinstance(batch, DalleError):
                raise batch
            yield to_device(batch, device)

    try:
        yield here()
    finally:
        made._shutdown_workers()  # type: ignore[attr-defined]  # no public call ends them, and an error keeps `made` alive
