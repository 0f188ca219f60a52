"""`dalle-server bench` measures the speed of a checkpoint, and compares it with the machine's limits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from typer import Option

from app.commands.common import DEFAULT_WEIGHTS, Device, Weights, utf8
from model.errors import InvalidRequest

if TYPE_CHECKING:
    from model.benchmark import Result

MOST_AT_ONCE = 256


def bench(
    images: Annotated[str, Option(help="How many pictures to paint at once: numbers separated by commas.")] = "1,4,16",
    repeats: Annotated[int, Option(min=1, max=100, help="Runs of each number. The median counts.")] = 3,
    prompt: Annotated[str, Option(help="What to paint.", callback=utf8)] = "a red apple",
    guidance: Annotated[
        float | None,
        Option(
            min=0,
            max=20,
            help="How closely to follow the text, 0 to 20. 1 is off and takes half the work.",
            show_default="the checkpoint's",
        ),
    ] = None,
    dtype: Annotated[
        str, Option(help="Number format of the transformer and its cache: auto, float32 or bfloat16.")
    ] = "auto",
    strict: Annotated[
        bool, Option("--strict/--fast", help="Paint the same bits alone and among others, or as fast as possible.")
    ] = True,
    weights: Weights = DEFAULT_WEIGHTS,
    device: Device = "auto",
) -> None:
    """Measure pictures a second. The last line on stdout is JSON. Its ratios can be compared between machines."""
    crowds = _crowds(images)
    from model.benchmark import benchmark
    from model.checkpoints import load
    from model.inference.devices import pick_device, pick_dtype

    place = pick_device(device)
    console = Console(stderr=True, highlight=False)
    with console.status("loading") as status:
        result = benchmark(
            load(weights, device=place),
            prompt=prompt,
            crowds=crowds,
            guidance=guidance,
            repeats=repeats,
            device=place,
            dtype=pick_dtype(dtype, place),
            strict=strict,
            on_progress=status.update,
        )
    show(result, Console(highlight=False))
    typer.echo(json.dumps(result.to_json()))


def _crowds(text: str) -> tuple[int, ...]:
    """ "1,4,16" -> (1, 4, 16). Raises InvalidRequest."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidRequest(
            "images", f"--images must be whole numbers separated by commas, such as 1,4,16, got {text!r}"
        ) from None
    if wrong := [number for number in found if not 1 <= number <= MOST_AT_ONCE]:
        raise InvalidRequest("images", f"--images must be numbers from 1 to {MOST_AT_ONCE}, got {wrong[0]}")
    return found


def show(result: Result, console: Console) -> None:
    """Print the machine, the sizes, the method and the figures."""
    machine = result.machine
    console.print(f"{machine.processor}, {machine.cores} cores, {machine.threads} threads; on {machine.device}")
    console.print(f"torch {machine.torch}, python {machine.python}, {machine.dtype}")
    console.print(
        f"reads {machine.bandwidth / 1e9:.1f} GB/s, multiplies {machine.speed / 1e9:,.0f} GFLOP/s, measured now"
    )
    console.print(
        f"{result.name}: {result.parameters / 1e6:.1f} M parameters, {result.weight_bytes / 1e6:.1f} MB of weights a "
        f"step; guidance {result.guidance:g}, {'strict' if result.strict else 'fast'}, "
        f"a prompt of {result.prompt_tokens} tokens, median of {result.repeats}"
    )
    table = Table(box=None)
    for name in ("pictures", "seconds", "spread", "a second", "x alone", "ms a step", "floor", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    alone = next((crowd.seconds for crowd in result.crowds if crowd.images == 1), None)
    for crowd in result.crowds:
        table.add_row(
            str(crowd.images),
            f"{crowd.seconds:.2f}",
            f"{(crowd.slowest - crowd.fastest) / crowd.seconds:.0%}",
            f"{crowd.images_per_second:.3f}",
            "" if alone is None else f"{crowd.seconds / alone:.1f}",
            f"{1e3 * crowd.step:.1f}",
            f"{1e3 * crowd.floor:.2f}",
            f"{crowd.of_floor:.0%}",
        )
    console.print(table)
    console.print(f"VQ decoder: {1e3 * result.decode_image:.0f} ms a picture")
