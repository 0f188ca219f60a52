"""`dalle-server train vae | transformer`, `dalle-server export`: from captioned pictures to a checkpoint to serve.

A run is a folder. Start the same command again and it goes on where it was, also after kill -9. On several GPUs:
torchrun --nproc-per-node 4 --no-python dalle-server train ...
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from app.commands.flags import DATA, LEARNING, RUN, CheckpointFlags, Data, LoopFlags, SelectionFlags, preset, spread

app = typer.Typer(help="Train the VQ-VAE, then the transformer. The same command again goes on with the run.")

Cache = Annotated[Path, Option(help="Where pictures and tokens are kept ready.", rich_help_panel=DATA)]
FIRST_STAGE = Path("runs/vae")


@app.command("vae")
@spread(out=FIRST_STAGE, batch=16)
def train_vae(
    data: Data,
    loop: LoopFlags,
    preset_name: Annotated[
        str | None,
        Option("--preset", help="tiny, small or default.", show_default="default", rich_help_panel=LEARNING),
    ] = None,
    lr: Annotated[
        float | None,
        Option(min=0.0, help="Learning rate.", show_default="2e-3; with --start 5e-4", rich_help_panel=LEARNING),
    ] = None,
    crop: Annotated[
        int, Option(min=32, max=256, help="Side of the crops it learns from, in pixels.", rich_help_panel=LEARNING)
    ] = 128,
    exchange: Annotated[
        float,
        Option(min=0.0, max=1.0, help="Chance that a crop's channels are exchanged.", rich_help_panel=LEARNING),
    ] = 0.25,
    start: Annotated[
        Path | None,
        Option(
            help="Begin from this run's or checkpoint's VAE.", show_default="random weights", rich_help_panel=LEARNING
        ),
    ] = None,
    decoder_only: Annotated[
        bool,
        Option(
            "--decoder-only",
            help="Leave the codes as they are: tokens and transformers stay valid.",
            rich_help_panel=LEARNING,
        ),
    ] = False,
    cache: Cache = Path("data/prepared"),
) -> None:
    """Stage 1: the VQ-VAE, on pictures alone."""
    from model.config import VAE_PRESETS
    from model.training.export import find_vae
    from model.training.train_vae import VAEOptions, train

    if decoder_only and start is None:
        raise typer.BadParameter(
            "needs --start: only a trained encoder's codes are worth keeping", param_hint="--decoder-only"
        )
    options = VAEOptions(
        tuple(data),
        loop.options(going_on=start is not None),
        preset(preset_name, VAE_PRESETS, start),
        lr=lr if lr is not None else 5e-4 if start else 2e-3,
        crop=crop,
        exchange=exchange,
        cache=cache,
        decoder_only=decoder_only,
    )
    train(options, find_vae(start) if start else None)
    typer.echo(loop.out)


@app.command("transformer")
@spread(out=Path("runs/transformer"), batch=32)
def train_transformer(
    data: Data,
    loop: LoopFlags,
    selection: SelectionFlags,
    checkpoint: CheckpointFlags,
    vae: Annotated[
        Path | None,
        Option(
            help="Folder of the `train vae` run, or of a checkpoint.",
            show_default=f"{FIRST_STAGE}; with --start a checkpoint, its own",
            rich_help_panel=DATA,
        ),
    ] = None,
    preset_name: Annotated[
        str | None,
        Option(
            "--preset",
            help="tiny, small, default, 400M or 1.3B.",
            show_default="default",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    vocabulary: Annotated[
        int | None,
        Option(min=260, help="Text tokens of a new tokenizer.", show_default="8192", rich_help_panel=LEARNING),
    ] = None,
    muon_lr: Annotated[
        float | None,
        Option(
            min=0.0,
            help="Learning rate of the hidden matrices.",
            show_default="0.02; with --start 0.004",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    adam_lr: Annotated[
        float | None,
        Option(
            min=0.0,
            help="Learning rate of all the rest.",
            show_default="3e-3; with --start 6e-4",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    weight_decay: Annotated[
        float, Option(min=0.0, help="Of matrices, in units of the learning rate.", rich_help_panel=LEARNING)
    ] = 0.01,
    null_captions: Annotated[
        float, Option(min=0.0, max=1.0, help="Share of captions left out, for guidance.", rich_help_panel=LEARNING)
    ] = 0.1,
    withhold: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Largest share of a picture's tokens that is withheld as inputs.",
            rich_help_panel=LEARNING,
        ),
    ] = 0.3,
    blind: Annotated[
        float,
        Option(min=0.0, max=1.0, help="Share of pictures with every token withheld.", rich_help_panel=LEARNING),
    ] = 0.0,
    mirror: Annotated[
        float,
        Option(min=0.0, max=1.0, help="Chance of a mirror image, where one is allowed.", rich_help_panel=LEARNING),
    ] = 0.5,
    easy_share: Annotated[
        float,
        Option(
            min=0.01,
            max=1.0,
            help="Share of the tokens that repeat their neighbours which is learnt from (and weighted up).",
            rich_help_panel=LEARNING,
        ),
    ] = 0.25,
    start: Annotated[
        Path | None,
        Option(
            help="Begin from this run's or checkpoint's weights and tokenizer: fine-tuning.",
            show_default="random weights",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        Option(help="Of the sample sheets (repeat).", show_default="24 common things", rich_help_panel=RUN),
    ] = None,
    cache: Cache = Path("data/prepared"),
) -> None:
    """Stage 2: the transformer, on captions and image tokens. Leaves a checkpoint to serve in OUT/checkpoint."""
    from model.config import TRANSFORMER_PRESETS, SamplingDefaults
    from model.training.export import ExportOptions, export, find_start, find_vae
    from model.training.selection import Selection
    from model.training.train_transformer import PROMPTS, TransformerOptions, train

    if start is not None and vocabulary is not None:
        raise typer.BadParameter(f"{vocabulary}, and --start brings its own tokenizer", param_hint="--vocabulary")
    options = TransformerOptions(
        tuple(data),
        loop.options(going_on=start is not None),
        preset(preset_name, TRANSFORMER_PRESETS, start),
        muon_lr=muon_lr if muon_lr is not None else 0.004 if start else 0.02,
        adam_lr=adam_lr if adam_lr is not None else 6e-4 if start else 3e-3,
        weight_decay=weight_decay,
        null_captions=null_captions,
        withhold=withhold,
        blind=blind,
        mirror=mirror,
        easy_share=easy_share,
        vocabulary=vocabulary or 8192,
        selection=Selection(selection.names(), frozenset(selection.source or ()), selection.shares()),
        prompts=tuple(prompt or PROMPTS),
        cache=cache,
    )
    begun = find_start(start) if start else None
    image_tokenizer = begun.vae if begun and begun.vae and vae is None else find_vae(vae or FIRST_STAGE)
    train(options, image_tokenizer, begun.tokenizer if begun else None, begun.transformer if begun else None)
    if int(os.environ.get("RANK", "0")) == 0:  # under torchrun one process writes
        path = loop.out / "checkpoint"
        sampling = begun.sampling if begun else SamplingDefaults()
        named = ExportOptions(checkpoint.name, checkpoint.licence, checkpoint.data_note, sampling)
        export(loop.out, image_tokenizer, path, named)
        typer.echo(path)


@spread()
def export_run(
    run: Annotated[Path, Argument(metavar="RUN", help="Folder of a `train transformer` run, finished or not.")],
    out: Annotated[Path, Option("-o", "--out", help="Folder of the checkpoint to write.")],
    checkpoint: CheckpointFlags,
    vae: Annotated[Path, Option(help="Folder of the `train vae` run, or of a checkpoint.")] = FIRST_STAGE,
    temperature: Annotated[float, Option(min=0.0, max=5.0, help="Sampling default.")] = 1.0,
    top_k: Annotated[int, Option(min=0, help="Sampling default.")] = 0,
    top_p: Annotated[float, Option(min=0.0, max=1.0, help="Sampling default.")] = 1.0,
    guidance: Annotated[float, Option(min=0.0, max=20.0, help="Sampling default.")] = 3.0,
    document: Annotated[list[Path] | None, Option(help="A file to put beside the weights (repeat).")] = None,
) -> None:
    """Write a training run's model as a checkpoint to serve."""
    from model.config import SamplingDefaults
    from model.training.export import ExportOptions, export, find_vae

    sampling = SamplingDefaults(temperature, top_k, top_p, guidance)
    options = ExportOptions(checkpoint.name, checkpoint.licence, checkpoint.data_note, sampling, tuple(document or ()))
    export(run, find_vae(vae), out, options)
    typer.echo(out)
