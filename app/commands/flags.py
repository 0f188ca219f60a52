"""Options that several training commands share, declared once each: a dataclass whose fields are options.

    @app.command()
    @spread(batch=16)
    def train(data: Data, loop: LoopFlags) -> None: ...

gives `train` every option of LoopFlags, with another default for --batch, and calls it with a LoopFlags. A field has
the name that the training code gives to the same thing, so that a group is handed on whole.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer
from typer import Argument, Option

if TYPE_CHECKING:
    from model.training.filters import Rules
    from model.training.loop import LoopOptions
    from model.training.selection import Selection

LEARNING, DATA, RUN, CHECKPOINT = "Learning", "Data", "Run", "Checkpoint to serve"  # panels of --help
STEPS, STEPS_ON = 20_000, 1000  # by default: from random weights, and going on from trained ones

Data = Annotated[
    list[Path],
    Argument(
        metavar="DATA...", help="Folders of pictures with captions, or tar shards; and index files to join to them."
    ),
]


def spread(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take groups of options: each parameter that is a dataclass becomes an option for every field.

    defaults: of fields, where the command's differ from the group's.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
        parameters = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name not in groups:
                parameters.append(parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY))
                continue
            fields = get_type_hints(groups[parameter.name], include_extras=True)
            for field in dataclasses.fields(groups[parameter.name]):
                default, hint = field.default, fields[field.name]
                if field.name in defaults:
                    default, hint = defaults[field.name], _shown_as_it_is(hint)
                parameters.append(
                    inspect.Parameter(field.name, parameter.KEYWORD_ONLY, default=default, annotation=hint)
                )

        @functools.wraps(command)
        def run(**values: Any) -> None:
            for name, group in groups.items():
                values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
            command(**values)

        del run.__wrapped__  # what follows is its true signature
        vars(run)["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _shown_as_it_is(hint: Any) -> Any:
    """The type of an option whose --help shows its default itself, whatever the option's own says of it."""
    kind, option = get_args(hint)
    shown = copy.copy(option)
    shown.show_default = True
    return Annotated[kind, shown]


def preset(name: str | None, presets: dict[str, dict[str, Any]], start: Path | None) -> str:
    """The preset's name; "default" where none was asked for. A bad parameter if unknown, or beside --start."""
    if name is not None and start is not None:
        raise typer.BadParameter(f"{name}, and the weights of --start say it already", param_hint="--preset")
    if name is not None and name not in presets:
        raise typer.BadParameter(f"{name} is none of {', '.join(presets)}", param_hint="--preset")
    return name or "default"


@dataclasses.dataclass(frozen=True)
class LoopFlags:
    """How long, where and how fast: the fields of `LoopOptions`."""

    out: Annotated[Path, Option("-o", "--out", help="The run's folder.", rich_help_panel=RUN)]
    steps: Annotated[
        int | None,
        Option(
            min=1,
            help="Optimizer steps in all.",
            show_default=f"{STEPS}; with --start {STEPS_ON}",
            rich_help_panel=LEARNING,
        ),
    ] = None
    batch: Annotated[int, Option(min=1, help="Samples a step, over all processes.", rich_help_panel=LEARNING)] = 16
    accumulate: Annotated[
        int, Option(min=1, help="Parts that a step's batch is computed in, to save memory.", rich_help_panel=LEARNING)
    ] = 1
    warmup: Annotated[
        int | None,
        Option(
            min=1,
            help="Steps in which the learning rate rises.",
            show_default="100, or a tenth of the steps",
            rich_help_panel=LEARNING,
        ),
    ] = None
    cooldown: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Share of the steps, at the end, in which the learning rate falls.",
            rich_help_panel=LEARNING,
        ),
    ] = 0.4
    ema: Annotated[float, Option(min=0.0, max=1.0, help="Decay of the averaged weights.", rich_help_panel=LEARNING)] = (
        0.999
    )
    clip: Annotated[float, Option(min=0.0, help="Largest norm of the gradient.", rich_help_panel=LEARNING)] = 1.0
    seed: Annotated[
        int, Option(min=0, help="Of the first weights and of all that is drawn.", rich_help_panel=LEARNING)
    ] = 0
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:1 ...", rich_help_panel=RUN)] = "auto"
    precision: Annotated[str, Option(help="auto (bf16 on CUDA), f32 or bf16.", rich_help_panel=RUN)] = "auto"
    report_every: Annotated[int, Option(min=1, help="Steps between lines of the log.", rich_help_panel=RUN)] = 20
    save_every: Annotated[int, Option(min=1, help="Steps between saved states.", rich_help_panel=RUN)] = 200
    sample_every: Annotated[int, Option(min=1, help="Steps between sample sheets.", rich_help_panel=RUN)] = 1000
    minutes: Annotated[
        float | None,
        Option(min=0.0, help="Stop and save after so long.", show_default="no limit", rich_help_panel=RUN),
    ] = None
    workers: Annotated[
        int | None,
        Option(
            min=0,
            help="Processes that make batches ahead of the steps.",
            show_default="all processors but one beside a GPU, 16 at most; else none",
            rich_help_panel=RUN,
        ),
    ] = None

    def options(self, going_on: bool = False) -> LoopOptions:
        """For the training loop. going_on: from trained weights, which takes fewer steps."""
        from model.training.loop import LoopOptions

        if self.precision not in ("auto", "f32", "bf16"):
            raise typer.BadParameter(f"{self.precision} is none of auto, f32, bf16", param_hint="--precision")
        steps = self.steps or (STEPS_ON if going_on else STEPS)
        warmup = self.warmup or min(100, max(1, steps // 10))
        return LoopOptions(**(vars(self) | {"steps": steps, "warmup": warmup}))


@dataclasses.dataclass(frozen=True)
class RuleFlags:
    """What is fit to train on: the fields of `Rules`."""

    english: Annotated[
        bool,
        Option("--english/--any-language", help="Refuse captions that are not English.", rich_help_panel=DATA),
    ] = True
    letters: Annotated[int, Option(min=0, help="The fewest letters of a caption.", rich_help_panel=DATA)] = 3
    characters: Annotated[int, Option(min=1, help="The most characters of a caption.", rich_help_panel=DATA)] = 2000
    least_side: Annotated[
        int, Option(min=1, help="The fewest pixels of a picture's shorter side.", rich_help_panel=DATA)
    ] = 64
    most_aspect: Annotated[
        float, Option(min=1.0, help="The most of a picture's longer side to its shorter.", rich_help_panel=DATA)
    ] = 2.0
    near: Annotated[
        bool,
        Option("--near/--no-near", help="Refuse pictures that look like an earlier one.", rich_help_panel=DATA),
    ] = True

    def rules(self) -> Rules:
        """For the filters."""
        from model.training.filters import Rules

        return Rules(**vars(self))


@dataclasses.dataclass(frozen=True)
class SelectionFlags:
    """Which captioned pictures, and how often: the fields of `Selection`."""

    concept: Annotated[
        list[str] | None, Option(help="Learn this concept (repeat; x* for any ending).", rich_help_panel=DATA)
    ] = None
    concepts: Annotated[
        Path | None, Option(help="File: a concept a line, and a weight.", show_default="none", rich_help_panel=DATA)
    ] = None
    source: Annotated[
        list[str] | None,
        Option(
            help="Learn from this source (repeat); SOURCE=WEIGHT: how often, among the pictures of one thing.",
            rich_help_panel=DATA,
        ),
    ] = None
    mix: Annotated[list[str] | None, Option(help="KIND=SHARE of the samples (repeat).", rich_help_panel=DATA)] = None

    def weights(self) -> dict[str, float]:
        """The concepts that were named, one by one and in the file, with their weights."""
        from model.training.selection import read_concepts

        return {**(read_concepts(self.concepts) if self.concepts else {}), **dict.fromkeys(self.concept or (), 1.0)}

    def shares(self) -> dict[str, float]:
        """["single=0.6", "pair=0.4"] -> shares by kind."""
        return numbers(self.mix or [], "--mix", "KIND=SHARE, as in single=0.6")

    def sources(self) -> dict[str, float]:
        """["twemoji=3", "noto"] -> weights by source."""
        texts = [text if "=" in text else f"{text}=1" for text in self.source or []]
        return numbers(texts, "--source", "SOURCE=WEIGHT, as in twemoji=3")

    def selection(self) -> Selection:
        """For the training code."""
        from model.training.selection import Selection

        return Selection(self.weights(), self.sources(), self.shares())


def numbers(texts: list[str], option: str, form: str) -> dict[str, float]:
    """["a=0.5", "b=2"] -> {"a": 0.5, "b": 2.0}. A bad parameter for other texts, and for a name that is there twice."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not 0 <= number < math.inf:
            raise typer.BadParameter(f"{text} is not {form}", param_hint=option)
        if name in found:
            raise typer.BadParameter(f"{name} is there twice", param_hint=option)
        found[name] = number
    return found


@dataclasses.dataclass(frozen=True)
class CheckpointFlags:
    """What a run does not know of the checkpoint that is made of it: fields of `ExportOptions`."""

    name: Annotated[str, Option(help="The model's name.", rich_help_panel=CHECKPOINT)] = "dalle-server"
    licence: Annotated[str, Option(help="The weights' licence.", rich_help_panel=CHECKPOINT)] = "unstated"
    data_note: Annotated[str, Option(help="What it was trained on, in words.", rich_help_panel=CHECKPOINT)] = "unstated"
