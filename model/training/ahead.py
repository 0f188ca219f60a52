"""Batches made ahead of the steps that need them, by processes of their own.

Drawing samples, putting words around captions and encoding them takes a processor one to three milliseconds a sample; a
GPU learns from some thousand samples a second. As every batch is a function of (step, samples) alone, it does not
matter which process makes it, nor when.

The processes are forked, so what they draw from is theirs at once, whatever its size. Their batches come back through
shared memory: some 5 MB for 256 pictures' tokens, of which each has AHEAD ready (a container's --shm-size).
"""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from model.errors import DalleError, DataError
from model.inference.cores import usable_cores

MOST_WORKERS = 16  # each makes 800 samples a second with eight glimpses: more than any one GPU was seen to learn from
AHEAD = 2  # batches that each process makes ahead

Part = tuple[int, int, int]  # step, first sample, end sample


def workers_for(asked: int | None, device: torch.device, world: int) -> int:
    """How many processes make batches for this one, of `world` that learn: those asked for, or what is left of the
    processors beside a GPU.

    On a CPU none: they would take the time of the very processors that learn. None either on several machines, whose
    network libraries may not be forked. Raises DataError where processes are asked for and cannot be forked.
    """
    forks = "fork" in multiprocessing.get_all_start_methods()
    if asked is not None:
        if asked and not forks:
            raise DataError(f"workers: {asked}, and this system cannot fork processes; 0 does without")
        return asked
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if device.type == "cpu" or not forks or here != world:
        return 0
    return min(MOST_WORKERS, max(1, usable_cores() // here - 1))


def moved(batch: Any, device: torch.device) -> Any:
    """A tensor, or a dataclass of tensors and such dataclasses, on `device`; anything else as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        parts = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
        return dataclasses.replace(batch, **{name: moved(part, device) for name, part in parts.items()})
    return batch


class _Parts(Dataset[Any]):
    def __init__(self, make: Callable[[int, int, int], Any], parts: list[Part]) -> None:
        self._make, self._parts = make, parts

    def __getitem__(self, index: int) -> Any:
        try:
            return self._make(*self._parts[index])
        except DalleError as error:  # raised there: here it would become one with the traceback in its text
            return error

    def __len__(self) -> int:
        return len(self._parts)


@contextmanager
def batches_ahead(
    make: Callable[[int, int, int], Any], parts: list[Part], workers: int, device: torch.device
) -> Iterator[Iterator[Any]]:
    """make(step, first, end) of each of `parts`, in order, on `device`; the processes end with the block.

    An error of theirs is raised where its batch would come.
    """
    if not workers:
        yield (moved(make(*part), device) for part in parts)
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not outlive a fork
    loader: DataLoader[Any] = DataLoader(
        _Parts(make, parts),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=AHEAD,
        multiprocessing_context="fork",
    )
    gc.collect()
    gc.freeze()  # or each process's collector would write to, and so copy, all that is shared
    try:
        made = iter(loader)
    finally:
        gc.unfreeze()

    def here() -> Iterator[Any]:
        for batch in made:
            if isinstance(batch, DalleError):
                raise batch
            yield moved(batch, device)

    try:
        yield here()
    finally:
        made._shutdown_workers()  # type: ignore[attr-defined]  # there is no public way, and an error keeps `made` alive
