"""A run's figures and sample sheets as TensorBoard's event files in its folder, where tensorboardX is installed.

    tensorboard --logdir runs

Nothing leaves the machine. Without the package (extra `tensorboard`) there are none, and training is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from PIL import Image


class Events:
    """Appends to the event files of one run, within a `with`."""

    def __init__(self, folder: Path, step: int, wanted: bool = True) -> None:
        """step: that the run goes on from; events of later steps, of a process that was killed, are not shown."""
        self._writer: Any = None
        if wanted:
            try:
                from tensorboardX import SummaryWriter  # type: ignore[import-untyped]
            except ImportError:
                return
            self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._writer:
            self._writer.close()

    def figures(self, line: Mapping[str, float], optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """One line of the log, at its "step", and the learning rates."""
        if not self._writer:
            return
        step = int(line["step"])
        for name, value in line.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)
        for optimizer in optimizers:
            rate = optimizer.param_groups[0]["lr"]
            self._writer.add_scalar(f"learning_rate/{type(optimizer).__name__.lower()}", rate, step)

    def picture(self, path: Path, step: int) -> None:
        """A sample sheet, if there is one at `path`."""
        if self._writer and path.exists():
            with Image.open(path) as sheet:
                self._writer.add_image("samples", np.asarray(sheet.convert("RGB")), step, dataformats="HWC")
