"""The folder of a training run: its files are written whole or not at all, and one process at a time trains in it.

config.json (of the model), state.pt (all that resuming needs), state-before.pt (the state before it), log.jsonl (a line
for each report), tokenizer.json if the run has one, and lock. What cannot be read is told in one line, with what to do.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor, nn

from model.config import ClipConfig, ReviserConfig, TransformerConfig, VAEConfig
from model.config_file import to_dict
from model.errors import CheckpointError, DataError
from model.files import opened, parse_json, read_file
from model.limits import build
from model.tokenizer import TOKENIZER_BYTES
from model.tokenizers import AnyTokenizer
from model.training.options import LoopOptions
from model.written import told, whole, write_whole

STATE, BEFORE, CONFIG, LOG, LOCK = "state.pt", "state-before.pt", "config.json", "log.jsonl", "lock"
CONFIG_BYTES = 1 << 20
STAGES = {"vae": VAEConfig, "transformer": TransformerConfig, "clip": ClipConfig, "reviser": ReviserConfig}

C = TypeVar("C")
M = TypeVar("M", bound=nn.Module)
R = TypeVar("R")
P = ParamSpec("P")


class _HasLoop(Protocol):
    @property
    def loop(self) -> LoopOptions: ...


O = TypeVar("O", bound=_HasLoop)  # noqa: E741 - options


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the run's folder, and keep other processes from training in it. The system unlocks it when this one dies.

    Under torchrun the first process does it for all. Raises DataError.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{folder}: another process trains in this folder; wait for its end, or name another folder with --out"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def alone(train: Callable[Concatenate[O, P], R]) -> Callable[Concatenate[O, P], R]:
    """The function, which takes options with a run's folder, with that folder `locked`."""

    @wraps(train)
    def inside(options: O, /, *rest: P.args, **named: P.kwargs) -> R:
        with locked(options.loop.out):
            return train(options, *rest, **named)

    return inside


def write_config(folder: Path, config: Any) -> None:
    """Write the model's config to the run's folder. Raises DataError when it holds a run of another model."""
    path, data = folder / CONFIG, (json.dumps(to_dict(config), indent=2) + "\n").encode()
    if os.path.lexists(path):
        if read_file(path, CONFIG_BYTES) == data:
            return
        if read_config(folder) != json.loads(data):
            raise DataError(f"{path}: this folder holds a run of another model; name another folder or remove it")
    write_whole(path, data)


def read_config(folder: Path) -> Any:
    """What config.json of a run says. Raises DataError."""
    path = folder / CONFIG
    if not os.path.lexists(path):
        raise DataError(f"{path}: not found; is {folder} the folder of a training run?")
    try:
        return parse_json(read_file(path, CONFIG_BYTES), str(path))
    except CheckpointError as error:
        raise DataError(f"{error}; remove it and run the command of this run again, which writes it anew") from None


def _config_of(folder: Path, kind: type[C]) -> C:
    """The config of a run of the stage with this kind of config. Raises DataError."""
    values, where = read_config(folder), str(folder / CONFIG)
    try:
        return build(kind, values, where)
    except CheckpointError as error:
        wanted = next((stage for stage, known in STAGES.items() if known is kind), None)
        for stage, other in STAGES.items():
            with contextlib.suppress(CheckpointError):
                build(other, values, where)
                raise DataError(f"{folder} must hold a run of `train {wanted}`, got one of `train {stage}`") from None
        raise DataError(str(error)) from None


def write_tokenizer(folder: Path, tokenizer: AnyTokenizer) -> None:
    """Write the tokenizer to the run's folder. Raises DataError when it holds a run with another tokenizer."""
    path = folder / "tokenizer.json"
    data = tokenizer.to_bytes()
    if path.exists():
        if read_file(path, TOKENIZER_BYTES) != data:
            raise DataError(f"{path}: this folder holds a run with another tokenizer; name another folder or remove it")
        return
    write_whole(path, data)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace state.pt at once, so a kill leaves the old state or the new one. The old one becomes state-before.pt.

    Raises DataError where it cannot be written.
    """
    path = folder / STATE
    with whole(path) as partial:
        with partial.open("wb") as file:
            _save(state, file)
        if path.exists():
            with whole(folder / BEFORE) as before:
                before.unlink(missing_ok=True)
                try:
                    os.link(path, before)
                except OSError:  # a file system without hard links
                    shutil.copyfile(path, before)
    write_whole(folder / LOG, "".join(map(_line, state["history"])).encode())


def _line(figures: dict[str, float]) -> str:
    """A line of JSON, which has no NaN."""
    finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def _save(state: dict[str, Any], file: Any) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # what torch makes of an OSError of `file`
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        file.flush()  # raises it again
        raise


def not_finite(state: Any, name: str = "") -> str | None:
    """The name of the first tensor of floats within dicts and lists that holds NaN or an infinity. None for none."""
    if isinstance(state, Tensor):
        return name if state.is_floating_point() and not bool(state.isfinite().all()) else None
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    for key, value in items:
        if (found := not_finite(value, f"{name}.{key}" if name else str(key))) is not None:
            return found
    return None


def read_state(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `write_state` wrote. Raises DataError, which says what to do, for a state that is missing or damaged."""
    path = folder / STATE
    if not os.path.lexists(path):
        raise DataError(f"{path}: not found; is {folder} the folder of a training run?")
    try:
        with opened(path) as (file, _):
            state, sound = _loaded(file, device)
    except CheckpointError as error:
        raise DataError(str(error)) from None
    if not sound:
        raise DataError(f"{path}: cut short or damaged; {_advice(folder)}")
    if not_finite(state["average"]) is not None:
        raise DataError(f"{path}: its weights are not finite; {_advice(folder)}")
    return state


def _loaded(file: BinaryIO, device: torch.device | str) -> tuple[dict[str, Any], bool]:
    """What torch reads, and whether it is a whole state."""
    try:
        with zipfile.ZipFile(file) as archive:  # torch does not compare the sums that it writes
            if archive.testzip() is not None:
                return {}, False
        file.seek(0)
        state = torch.load(file, map_location=device, weights_only=True)
    except MemoryError:
        raise
    except Exception:  # whatever zipfile, torch and its unpickler raise on damaged bytes
        return {}, False
    kinds = {"step": int, "model": dict, "average": dict, "optimizers": list, "history": list}
    return state, isinstance(state, dict) and all(isinstance(state.get(key), kind) for key, kind in kinds.items())


def _advice(folder: Path) -> str:
    if (folder / BEFORE).exists():
        return f"to go on from the state before it, rename {folder / BEFORE} to {STATE}"
    return f"remove it, and {folder / LOG}, to begin this run anew"


def read_average(folder: Path) -> tuple[Any, dict[str, Tensor], list[dict[str, float]]]:
    """What config.json says, and the averaged weights and the history of a run. Raises DataError."""
    config, state = read_config(folder), read_state(folder)
    return config, state["average"], state["history"]


def load_average(folder: Path, kind: type[C], make: Callable[[C], M]) -> M:
    """The model of a run with its averaged weights. kind: of its config. Raises DataError."""
    model = make(_config_of(folder, kind))
    try:
        model.load_state_dict(read_state(folder)["average"])
    except (RuntimeError, AttributeError, TypeError, ValueError):
        told = f"its weights are not those of the model in {folder / CONFIG}"
        raise DataError(f"{folder / STATE}: {told}") from None
    return model.eval()
