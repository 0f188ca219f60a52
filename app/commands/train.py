"""`dalle-server train vae | transformer | clip | reviser` trains models on captioned pictures.

A run is a folder. If it was stopped, even by kill -9, the same command goes on with it. On several GPUs:
torchrun --nproc-per-node 4 --no-python dalle-server train ...
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from app.commands.common import check_out_folder, checkpoint
from app.commands.flags import Data, Given, KnobCommand, with_knobs
from app.commands.image_tokenizers import VAE, find_image_tokenizer
from model.limits import printable
from model.training.knobs import build
from model.training.options import ClipOptions, ExportOptions, ReviserOptions, TransformerOptions, VAEOptions

LOOP = ("out", "preset", "steps", "minutes", "batch", "seed", "device", "precision")  # flags of every stage
DATA = ("english", "cache")
FIRST_STAGE, SECOND_STAGE = Path("runs/vae"), Path("runs/transformer")
FOLDER = "Folder of a {} run, or of a checkpoint."

Start = Annotated[
    Path | None,
    Option(
        help="Begin from the weights of this run or checkpoint.", show_default="random weights", callback=checkpoint
    ),
]
Words = Annotated[
    Path | None,
    Option(
        help="Use the tokenizer of this `train transformer` run or checkpoint.",
        show_default=f"{SECOND_STAGE}; if a checkpoint is named besides, its own",
        callback=checkpoint,
    ),
]

app = typer.Typer()


class _Plain(logging.Formatter):
    """Messages on one line, which say nothing to a terminal: they repeat names of files."""

    def format(self, record: logging.LogRecord) -> str:
        """The message."""
        return printable(super().format(record))


@app.callback()
def options() -> None:
    """Train the VQ-VAE, then the transformer. The CLIP and the reviser are optional.

    If a run was stopped, the same command goes on with it.
    """
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_time=False, show_level=False, show_path=False)
    handler.setFormatter(_Plain())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    warnings.filterwarnings("ignore", module="PIL")  # oddities of files; what cannot be read is counted
    logging.getLogger("model").setLevel(logging.INFO)  # what was read and left out; without a terminal also reports


def refuse_with_start(given: Given, *names: str) -> None:
    """Raise BadParameter for a knob that is given although the weights of --start decide it."""
    if name := next((name for name in names if name in given), None):
        raise typer.BadParameter(f"{name} must be left out beside --start, got {given[name]}", param_hint=f"--{name}")


@app.command("vae", cls=KnobCommand)
@with_knobs(VAEOptions, flags=(*LOOP, "decoder_only", *DATA, "stream"))
def train_vae(data: Data, *, start: Start = None, given: Given) -> None:
    """Train the first stage: the VQ-VAE, which turns pictures into tokens. It needs no captions."""
    from model.training.deepen import deepen
    from model.training.export import find_own_vae
    from model.training.extras import check_installed
    from model.training.train_vae import train

    check_installed()
    if start is not None:
        refuse_with_start(given, "preset")
    elif "decoder_only" in given:
        raise typer.BadParameter(
            "needs --start, because only the codes of a trained encoder are worth keeping", param_hint="--decoder-only"
        )
    options = build(VAEOptions, given, start is not None, data=tuple(data))
    check_out_folder(options.loop.out)
    train(options, deepen(find_own_vae(start, "a start"), options.depths) if start else None)
    typer.echo(options.loop.out)


@app.command("transformer", cls=KnobCommand)
@with_knobs(
    TransformerOptions,
    ExportOptions,
    flags=(*LOOP, "prompts", "compose", "clutter", *DATA, "stream", "name", "licence"),
)
def train_transformer(
    data: Data,
    *,
    vae: Annotated[
        Path | None,
        Option(
            help=VAE,
            show_default=f"{FIRST_STAGE}; if --start is a checkpoint, its own",
            callback=checkpoint,
        ),
    ] = None,
    start: Start = None,
    given: Given,
    preserve: Annotated[
        Path | None,
        Option(
            help="File of prompts, one a line. The start paints them first. Then they are learnt again, so that they "
            "are not forgotten.",
            show_default="none",
            callback=checkpoint,
        ),
    ] = None,
) -> None:
    """Train the second stage: the transformer, on captions and image tokens. OUT/checkpoint can then be served.

    With --start a trained model learns your pictures too. It keeps its tokenizer.
    """
    from model.config import SamplingDefaults
    from model.prompts import read_prompts
    from model.training.export import export, find_start
    from model.training.extras import check_installed
    from model.training.loop import find_place
    from model.training.train_transformer import train

    check_installed()
    if start is not None:
        refuse_with_start(given, "preset", "vocabulary")
    if preserve is not None and start is None:
        raise typer.BadParameter("needs --start, because a new model has nothing to preserve", param_hint="--preserve")
    if "compose" in given and "stream" in given:
        raise typer.BadParameter("reads a whole folder, so --stream must be left out", param_hint="--compose")
    begun = find_start(start) if start else None
    options = build(
        TransformerOptions,
        given,
        start is not None,
        data=tuple(data),
        sampling=begun.sampling if begun else SamplingDefaults(),
        preserve=read_prompts(preserve) if preserve else (),
    )
    named = build(ExportOptions, given, sampling=options.sampling)
    out = options.loop.out
    check_out_folder(out)
    image_tokenizer = begun.vae if begun and begun.vae and vae is None else find_image_tokenizer(vae or FIRST_STAGE)
    if begun and begun.vae and image_tokenizer is not begun.vae and not (out / "state.pt").exists():
        from model.training.carry_over import to_new_vae
        from model.training.train_vae import find_pictures

        seen = VAEOptions(options.data, options.loop, cache=options.cache, rules=options.rules, stream=options.stream)
        pictures = find_pictures(seen, find_place(options.loop))
        to_new_vae(begun.transformer, begun.vae, image_tokenizer, pictures, options.loop.seed)
    train(options, image_tokenizer, begun.tokenizer if begun else None, begun.transformer if begun else None)
    if int(os.environ.get("RANK", "0")) == 0:  # under torchrun one process writes
        path = out / "checkpoint"
        clip = begun.clip if begun and image_tokenizer is begun.vae else None  # it reads the same tokens
        export(out, image_tokenizer, path, named, clip)
        typer.echo(path)


@app.command("clip", cls=KnobCommand)
@with_knobs(ClipOptions, flags=(*LOOP, *DATA, "stream"))
def train_clip(
    data: Data,
    *,
    vae: Annotated[Path, Option(help=FOLDER.format("`train vae`"), callback=checkpoint)] = FIRST_STAGE,
    tokenizer: Words = None,
    start: Start = None,
    given: Given,
) -> None:
    """Train the reranker of best_of: a small CLIP on captions and image tokens. `export --clip` adds it.

    A start must have learnt with the same VAE and tokenizer.
    """
    from model.tokenizer import Tokenizer
    from model.training.export import find_clip, find_own_vae, is_checkpoint
    from model.training.extras import check_installed
    from model.training.train_clip import train

    check_installed()
    if start is not None:
        refuse_with_start(given, "preset")
    options = build(ClipOptions, given, start is not None, data=tuple(data))
    check_out_folder(options.loop.out)
    own = find_own_vae(vae, "a CLIP")
    words = Tokenizer.load((tokenizer or (vae if is_checkpoint(vae) else SECOND_STAGE)) / "tokenizer.json")
    train(options, own, words, find_clip(start, words) if start else None)
    typer.echo(options.loop.out)


@app.command("reviser", cls=KnobCommand)
@with_knobs(ReviserOptions, flags=(*LOOP, *DATA))
def train_reviser(data: Data, *, tokenizer: Words = None, start: Start = None, given: Given) -> None:
    """Train the reviser, which rewords prompts as the captions would say them. `export --reviser` adds it.

    To follow a fine-tuned transformer, begin from its checkpoint with --start: 300 steps are enough.
    """
    from model.tokenizer import Tokenizer
    from model.training.export import find_reviser
    from model.training.extras import check_installed
    from model.training.train_reviser import train

    check_installed()
    if start is not None:
        refuse_with_start(given, "preset")
    words = Tokenizer.load((tokenizer or start or SECOND_STAGE) / "tokenizer.json")
    options = build(ReviserOptions, given, start is not None, data=tuple(data))
    check_out_folder(options.loop.out)
    train(options, words, find_reviser(start, words) if start else None)
    typer.echo(options.loop.out)
