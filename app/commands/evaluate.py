"""`dalle-server evaluate DATA` measures how good a checkpoint is on pictures of your own."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from typer import Option

from app.commands.common import DEFAULT_WEIGHTS, Device, Weights
from app.commands.flags import Data, Given, with_knobs
from model.training.knobs import build
from model.training.options import EvaluateOptions

if TYPE_CHECKING:
    from model.training.estimates import Estimate
    from model.training.measure import Measured


@with_knobs(EvaluateOptions, flags=("english", "cache"))
def evaluate(
    data: Data,
    *,
    every: Annotated[
        bool,
        Option("--all", help="Measure all pictures, not only the held-out ones. Use it for data that was not learnt."),
    ] = False,
    pictures: Annotated[int, Option(min=1, help="Largest number of pictures to measure.")] = 500,
    as_json: Annotated[bool, Option("--json", help="Print one line of JSON.")] = False,
    given: Given,
    weights: Weights = DEFAULT_WEIGHTS,
    device: Device = "auto",
) -> None:
    """Measure both stages on the pictures of your data that training holds out: PSNR, SSIM, bits per image token."""
    import model
    from model.training.extras import check_installed
    from model.training.measure import measure
    from model.training.prepare import prepare

    options = build(EvaluateOptions, given)
    if options.rules.english:
        check_installed("py3langid")
    painter = model.load(weights, device)
    prepared = prepare(data, options.cache, options.rules)
    bars = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(TextColumn("measuring"), *bars, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=None)
        found = measure(
            painter,
            prepared,
            every=every,
            most=pictures,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
    if as_json:
        typer.echo(json.dumps(_values(found)))
    else:
        Console(highlight=False).print(_table(found))


def _values(found: Measured) -> dict[str, Any]:
    estimates = {"psnr": found.psnr, "ssim": found.ssim, "image_bits": found.image_bits}
    known = {name: estimate for name, estimate in estimates.items() if estimate is not None}
    return {
        "pictures": found.pictures,
        **{name: None if estimate is None else round(estimate.value, 5) for name, estimate in estimates.items()},
        "codebook_usage": round(found.usage, 5),
        "codebook_perplexity": round(found.perplexity, 2),
        "intervals": {
            name: [round(estimate.low, 5), round(estimate.high, 5)]
            for name, estimate in known.items()
            if math.isfinite(estimate.low)
        },
        "captioned": 0 if found.image_bits is None else found.image_bits.n,
    }


def _table(found: Measured) -> Table:
    table = Table(box=None)
    table.add_column("figure")
    table.add_column("pictures", justify="right")
    table.add_column("measured [95 %]")
    everything = str(found.pictures)
    table.add_row("PSNR of the VAE", everything, _shown(found.psnr, 2, " dB"))
    table.add_row("SSIM of the VAE", everything, _shown(found.ssim, 3))
    table.add_row("codes used", everything, f"{100 * found.usage:.1f} %, perplexity {found.perplexity:.0f}")
    if found.image_bits is None:
        table.add_row("bits an image token", "0", "not measured: no picture has a caption")
    else:
        table.add_row("bits an image token", str(found.image_bits.n), _shown(found.image_bits, 3))
    return table


def _shown(estimate: Estimate, digits: int, unit: str = "") -> str:
    text = f"{estimate.value:.{digits}f}{unit}"
    return f"{text} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]" if math.isfinite(estimate.low) else text
