"""The training loop that both stages share: one step after another, resumable to the bit, on CPU, one GPU or several.

Every batch is a pure function of (seed, step), so the step number is the whole data position: a run that was killed
goes on from its last saved state and repeats the very same losses (but for compiled kernels, which a restart may
compile otherwise; `--eager` has none). Under torchrun each rank takes its slice of the same
global batch and gradients are averaged, so the number of processes does not change what is learnt.

A run is a folder: config.json (the model's), state.pt (all that resuming needs), log.jsonl (a line a report), loss.png,
samples-*.png, and events.out.tfevents.* for TensorBoard, where tensorboardX is installed. The averaged weights in
state.pt are the ones to use.
"""

from __future__ import annotations

import atexit
import copy
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn  # before the group is there: it keeps the group it finds in default arguments, for ever
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from model.config import to_dict
from model.errors import DataError
from model.tokenizer import Tokenizer
from model.training.ahead import batches_ahead, workers_for
from model.training.events import Events
from model.training.optimizers import schedule
from model.training.plots import loss_curve

log = logging.getLogger(__name__)

Losses = dict[str, Tensor]  # "loss" is what is minimised; the rest is reported


@dataclass(frozen=True)
class LoopOptions:
    """How long and where to train."""

    out: Path  # the run's folder
    steps: int  # optimizer steps in all
    batch: int  # samples a step, over all processes
    accumulate: int = 1  # micro-batches a step, to bound memory
    warmup: int = 100  # steps of linear warm-up
    cooldown: float = 0.4  # share of the steps at the end in which the learning rate falls
    ema: float = 0.999  # decay of the averaged weights
    clip: float = 1.0  # largest gradient norm
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda, cuda:N
    precision: str = "auto"  # auto, f32, bf16
    report_every: int = 20  # steps between lines of the log
    save_every: int = 200  # steps between saved states
    sample_every: int = 1000  # steps between sample sheets
    minutes: float | None = None  # stop and save after so long, with the schedule unfinished
    workers: int | None = None  # processes that make batches ahead; None for `workers_for` to say


@dataclass
class Place:
    """The process's device, precision and place among its peers."""

    device: torch.device
    autocast: torch.dtype | None
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """True on the process that writes files and shows progress."""
        return self.rank == 0


def find_place(options: LoopOptions) -> Place:
    """Pick the device; join the process group under torchrun. Raises DataError for a device that is not there."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    name = options.device
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise DataError(f"device: {name} was asked for, and torch {torch.__version__} sees no CUDA GPU")
    device = torch.device(name)
    if world > 1 and not dist.is_initialized():
        # the first process may read data for hours while the others wait; one that dies is torchrun's to notice
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=2))
        if device.type == "cpu":
            # gloo's threads free tensors, which needs Python: a group that outlives it aborts the process at its end
            atexit.register(dist.destroy_process_group)
    bf16 = options.precision == "bf16" or (options.precision == "auto" and device.type == "cuda")
    return Place(device, torch.bfloat16 if bf16 else None, rank, world)


def wait_for_all(place: Place) -> None:
    """Go on when every process has come this far."""
    if place.world > 1:
        dist.all_reduce(torch.zeros((), device=place.device))
        if place.device.type == "cuda":
            torch.cuda.synchronize(place.device)


@contextmanager
def first_goes_first(place: Place) -> Iterator[None]:
    """The first process does the block alone; then the others do, and find on disk what it left there."""
    if not place.first:
        wait_for_all(place)
    yield
    if place.first:
        wait_for_all(place)


@dataclass
class Run:
    """A training run: what `train` needs, and what it keeps."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    options: LoopOptions
    place: Place
    batch_at: Callable[[int, int, int], Any]  # (step, first sample, end sample) of the global batch -> it, on the CPU
    losses: Callable[[nn.Module, Any], Losses]
    tokens_a_sample: int = 1  # for the speed that is shown
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None
    sample: Callable[[nn.Module, Path], None] | None = None
    position: Callable[[int], dict[str, Any]] = lambda step: {}  # noqa: ARG005 - in the data, where a step begins
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model.to(self.place.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("peak_lr", group["lr"])


def save_state(run: Run) -> None:
    """Write state.pt and log.jsonl; a kill at any moment leaves the old or the new state, never half of one."""
    folder = run.options.out
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "step": run.step,
        "model": run.model.state_dict(),
        "average": run.average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "history": run.history,
        "data": run.position(run.step),
    }
    partial = folder / "state.pt.partial"
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / "state.pt")
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in run.history))


def write_config(folder: Path, config: Any) -> None:
    """Note in the run's folder what model it trains. Raises DataError when the folder holds a run of another one."""
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "config.json", json.dumps(to_dict(config), indent=2) + "\n"
    if path.exists() and path.read_text() != text:
        raise DataError(f"{path}: this folder holds a run of another model; name another folder or remove it")
    path.write_text(text)


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Keep in the run's folder what its model reads. Raises DataError when the folder holds a run of another one."""
    path = folder / "tokenizer.json"
    if path.exists() and Tokenizer.load(path).to_bytes() != tokenizer.to_bytes():
        raise DataError(f"{path}: this folder holds a run with another tokenizer; name another folder or remove it")
    tokenizer.save(path)


def read_average(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], list[dict[str, float]]]:
    """A run's config, averaged weights and history. Raises DataError when there are none."""
    try:
        config = json.loads((folder / "config.json").read_text())
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: not found; is {folder} the folder of a training run?") from None
    return {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}, state["average"], state["history"]


def load_state(run: Run) -> bool:
    """Take up the run's saved state, if there is one. Raises DataError when it is of another model."""
    path = run.options.out / "state.pt"
    if not path.exists():
        return False
    state = torch.load(path, map_location=run.place.device, weights_only=True)
    try:
        run.model.load_state_dict(state["model"])
        run.average.load_state_dict(state["average"])
        for optimizer, saved in zip(run.optimizers, state["optimizers"], strict=True):
            peaks = [(group["peak_lr"], group["weight_decay"]) for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, (peak, decay) in zip(optimizer.param_groups, peaks, strict=True):
                group["peak_lr"], group["weight_decay"] = peak, decay
    except (RuntimeError, ValueError, KeyError) as error:
        raise DataError(f"{path}: the saved state is of another model: {str(error).splitlines()[0]}") from None
    run.step = state["step"]
    run.history = state["history"]
    if state.get("data", {}) != run.position(run.step):
        log.warning("%s: the data are not those of the saved run: from step %d on the order is another", path, run.step)
    return True


def _average_gradients(run: Run) -> None:
    if run.place.world == 1:
        return
    for parameter in run.model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= run.place.world


def _update_average(run: Run) -> None:
    decay = min(run.options.ema, (1 + run.step) / (10 + run.step))
    with torch.no_grad():
        ours: list[Tensor] = list(run.average.parameters())
        theirs: list[Tensor] = list(run.model.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)


def _micro_batches(run: Run) -> Callable[[int], Any]:
    """What makes this process's micro-batches, counted through from step 0. Raises DataError."""
    options, place = run.options, run.place
    pieces = options.accumulate * place.world
    if options.batch % pieces:
        raise DataError(f"batch: {options.batch} is no multiple of accumulate x processes, {pieces}")
    size = options.batch // pieces

    def make(index: int) -> Any:
        step, micro = divmod(index, options.accumulate)
        first = (place.rank * options.accumulate + micro) * size
        return run.batch_at(step, first, first + size)

    return make


def training_step(run: Run, batches: Iterator[Any]) -> Losses:
    """One optimizer step at `run.step`, on the next of `batches`. Returns the global batch's mean losses, detached."""
    options, place = run.options, run.place
    factor = schedule(run.step, options.steps, options.warmup, options.cooldown)
    total: Losses = {}
    for _ in range(options.accumulate):
        batch = next(batches)
        with torch.autocast(place.device.type, dtype=place.autocast, enabled=place.autocast is not None):
            losses = run.losses(run.model, batch)
        (losses["loss"] / options.accumulate).backward()  # type: ignore[no-untyped-call]
        for name, value in losses.items():
            total[name] = total.get(name, torch.zeros((), device=place.device)) + value.detach() / options.accumulate
    _average_gradients(run)
    total["norm"] = nn.utils.clip_grad_norm_(run.model.parameters(), options.clip)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if place.world > 1:
        for value in total.values():
            dist.all_reduce(value)
            value /= place.world
    run.step += 1
    _update_average(run)
    return total


def _progress(enabled: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not enabled,
    )


def train(run: Run, title: str) -> Run:
    """Train to `options.steps` (or for `options.minutes`), resuming what the folder holds. Returns the run."""
    options = run.options
    load_state(run)
    started, mark, marked_at = time.monotonic(), run.step, time.monotonic()
    window: dict[str, list[Tensor]] = {}
    run.model.train()
    workers = workers_for(options.workers, run.place.device, run.place.world)
    left = range(run.step * options.accumulate, options.steps * options.accumulate)
    with (
        batches_ahead(_micro_batches(run), left, workers, run.place.device) as batches,  # before others start threads
        _progress(run.place.first) as progress,
        Events(options.out, run.step, run.place.first) as events,
    ):
        task = progress.add_task(title, total=options.steps, completed=run.step, loss=float("nan"), speed="")
        while run.step < options.steps:
            for name, value in training_step(run, batches).items():
                window.setdefault(name, []).append(value)
            out_of_time = options.minutes is not None and time.monotonic() - started > options.minutes * 60
            last = run.step == options.steps or out_of_time
            look = last or run.step % options.sample_every == 0
            if run.step % options.report_every == 0 or look:
                line = {name: float(torch.stack(values).mean()) for name, values in window.items()}
                window.clear()
                now = time.monotonic()
                speed = (run.step - mark) * options.batch / (now - marked_at)
                mark, marked_at = run.step, now
                line.update(step=float(run.step), samples_per_second=speed)
                if run.place.first and run.evaluate and look:
                    line.update(run.evaluate(run.average))
                run.history.append(line)
                events.figures(line, run.optimizers)
                shown = (
                    f"{speed * run.tokens_a_sample:,.0f} tokens/s"
                    if run.tokens_a_sample > 1
                    else f"{speed:.1f} images/s"
                )
                progress.update(task, completed=run.step, loss=line["loss"], speed=shown)
                if run.place.first and not progress.console.is_terminal:
                    log.info("%s step %d of %d loss %.4f %s", title, run.step, options.steps, line["loss"], shown)
            if run.place.first and (run.step % options.save_every == 0 or last):
                save_state(run)
            if run.place.first and look:
                loss_curve(run.history, options.out / "loss.png", title)
                if run.sample:
                    sheet = options.out / f"samples-{run.step:07d}.png"
                    run.sample(run.average, sheet)
                    events.picture(sheet, run.step)
            if last:
                break
    return run
