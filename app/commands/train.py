"""`dalle-server train vae | transformer`: from captioned pictures to models.

A run is a folder. Start the same command again and it goes on where it was, also after kill -9. On several GPUs:
torchrun --nproc-per-node 4 --no-python dalle-server train ...
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from app.commands.flags import (
    DATA,
    LEARNING,
    RUN,
    CheckpointFlags,
    Data,
    LoopFlags,
    RuleFlags,
    SelectionFlags,
    preset,
    spread,
)

app = typer.Typer()


@app.callback()
def options() -> None:
    """Train the VQ-VAE, then the transformer; then what helps them. The same command again goes on with the run."""
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_time=False, show_level=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("model").setLevel(logging.INFO)  # what was read and left out; without a terminal, each report


Cache = Annotated[Path, Option(help="Where pictures and tokens are kept ready.", rich_help_panel=DATA)]
Stream = Annotated[
    bool,
    Option(
        "--stream",
        help="Read tars one after another, each picture once an epoch, instead of copying all pictures to the cache.",
        rich_help_panel=DATA,
    ),
]
FIRST_STAGE, SECOND_STAGE = Path("runs/vae"), Path("runs/transformer")


@app.command("vae")
@spread(out=FIRST_STAGE, batch=16)
def train_vae(
    data: Data,
    loop: LoopFlags,
    rules: RuleFlags,
    preset_name: Annotated[
        str | None,
        Option("--preset", help="tiny, small or default.", show_default="default", rich_help_panel=LEARNING),
    ] = None,
    muon_lr: Annotated[
        float | None,
        Option(
            min=0.0,
            help="Learning rate of the hidden kernels.",
            show_default="0.02; with --start 0.005",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    adam_lr: Annotated[
        float | None,
        Option(
            min=0.0,
            help="Learning rate of all the rest.",
            show_default="2e-3; with --start 5e-4",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    even: Annotated[
        float,
        Option(
            min=0.0,
            help="Weight of the loss that spreads the codes over the codebook.",
            rich_help_panel=LEARNING,
        ),
    ] = 0.2,
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
    decoder_blocks: Annotated[
        int | None,
        Option(
            min=1,
            help="Residual blocks of the decoder at 32 x 32. With --start more than it has: a deeper decoder.",
            show_default="the preset's, or the start's",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    decoder_mid_blocks: Annotated[
        int | None,
        Option(min=1, help="The same at 64 x 64.", show_default="likewise", rich_help_panel=LEARNING),
    ] = None,
    cache: Cache = Path("data/prepared"),
    stream: Stream = False,
) -> None:
    """Stage 1: the VQ-VAE, on pictures alone."""
    from model.config import VAE_PRESETS
    from model.training.deepen import deepen
    from model.training.export import find_vae
    from model.training.train_vae import VAEOptions, train

    if decoder_only and start is None:
        raise typer.BadParameter(
            "needs --start: only a trained encoder's codes are worth keeping", param_hint="--decoder-only"
        )
    asked = {"decoder_blocks": decoder_blocks, "decoder_mid_blocks": decoder_mid_blocks}
    depths = {field: depth for field, depth in asked.items() if depth is not None}
    options = VAEOptions(
        tuple(data),
        loop.options(going_on=start is not None),
        preset(preset_name, VAE_PRESETS, start),
        changes=depths,
        muon_lr=muon_lr if muon_lr is not None else 0.005 if start else 0.02,
        adam_lr=adam_lr if adam_lr is not None else 5e-4 if start else 2e-3,
        even=even,
        crop=crop,
        exchange=exchange,
        cache=cache,
        decoder_only=decoder_only,
        rules=rules.rules(),
        stream=stream,
    )
    train(options, deepen(find_vae(start), depths) if start else None)
    typer.echo(loop.out)


@app.command("transformer")
@spread(out=SECOND_STAGE, batch=32)
def train_transformer(
    data: Data,
    loop: LoopFlags,
    rules: RuleFlags,
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
            help="tiny, small, medium, default, 400M or 1.3B.",
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
            show_default="0.02; with --start 0.003",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    adam_lr: Annotated[
        float | None,
        Option(
            min=0.0,
            help="Learning rate of all the rest.",
            show_default="3e-3; with --start 1.5e-3",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    weight_decay: Annotated[
        float, Option(min=0.0, help="Of matrices, in units of the learning rate.", rich_help_panel=LEARNING)
    ] = 0.01,
    null_captions: Annotated[
        float, Option(min=0.0, max=1.0, help="Share of captions left out, for guidance.", rich_help_panel=LEARNING)
    ] = 0.1,
    clutter: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help='Share of captions as people type them: among words that say nothing of the picture ("draw a happy '
            'cat at night"), or a kind or an idea in place of the thing ("a tabby", "curiosity").',
            rich_help_panel=LEARNING,
        ),
    ] = 0.0,
    contradict: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Share of pictures under words of something else, of which the later part alone is learnt: what is "
            "begun is ended, whatever the words say.",
            rich_help_panel=LEARNING,
        ),
    ] = 0.0,
    withhold: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Largest share of a picture's tokens that is withheld as inputs.",
            rich_help_panel=LEARNING,
        ),
    ] = 1.0,
    blind: Annotated[
        float,
        Option(min=0.0, max=1.0, help="Share of pictures with every token withheld.", rich_help_panel=LEARNING),
    ] = 0.2,
    glimpses: Annotated[
        int,
        Option(
            min=0,
            max=64,
            help="For each picture so many further texts, from which alone a few of their picture's tokens are told: "
            "words are learnt at a tenth of the price. With --clutter, such texts as people type.",
            rich_help_panel=LEARNING,
        ),
    ] = 0,
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
    preserve: Annotated[
        Path | None,
        Option(
            help="File of prompts, one a line, that START draws first, to be learnt again and not forgotten.",
            show_default="none",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    preserve_share: Annotated[
        float, Option(min=0.0, max=1.0, help="Share of the samples for them.", rich_help_panel=LEARNING)
    ] = 0.4,
    compose: Annotated[
        bool,
        Option(
            "--compose",
            help="Cut out what stands alone on a plain ground, and learn it also on other colours, several times, and "
            "beside what is preserved: of a folder of at most 2000 pictures.",
            rich_help_panel=DATA,
        ),
    ] = False,
    prompt: Annotated[
        list[str] | None,
        Option(help="Of the sample sheets (repeat).", show_default="24 common things", rich_help_panel=RUN),
    ] = None,
    fused: Annotated[
        bool | None,
        Option(
            "--fused/--eager",
            help="Compile the blocks and the loss: a minute before the first step, and shorter ones.",
            show_default="fused on a GPU with a C compiler",
            rich_help_panel=RUN,
        ),
    ] = None,
    cache: Cache = Path("data/prepared"),
    stream: Stream = False,
) -> None:
    """Stage 2: the transformer, on captions and image tokens. Leaves a checkpoint to serve in OUT/checkpoint."""
    from model.config import TRANSFORMER_PRESETS, SamplingDefaults
    from model.prompts import read_prompts
    from model.training.export import ExportOptions, export, find_start, find_vae
    from model.training.loop import find_place
    from model.training.train_transformer import PROMPTS, TransformerOptions, train

    if start is not None and vocabulary is not None:
        raise typer.BadParameter(f"{vocabulary}, and --start brings its own tokenizer", param_hint="--vocabulary")
    if preserve is not None and start is None:
        raise typer.BadParameter("needs --start: a new model has nothing to preserve", param_hint="--preserve")
    if compose and stream:
        raise typer.BadParameter("reads a whole folder, which --stream does not", param_hint="--compose")
    begun = find_start(start) if start else None
    options = TransformerOptions(
        tuple(data),
        loop.options(going_on=start is not None),
        preset(preset_name, TRANSFORMER_PRESETS, start),
        muon_lr=muon_lr if muon_lr is not None else 0.003 if start else 0.02,
        adam_lr=adam_lr if adam_lr is not None else 1.5e-3 if start else 3e-3,
        weight_decay=weight_decay,
        null_captions=null_captions,
        clutter=clutter,
        contradict=contradict,
        withhold=withhold,
        blind=blind,
        glimpses=glimpses,
        mirror=mirror,
        easy_share=easy_share,
        vocabulary=vocabulary or 8192,
        selection=selection.selection(),
        prompts=tuple(prompt or PROMPTS),
        sampling=begun.sampling if begun else SamplingDefaults(),
        preserve=read_prompts(preserve) if preserve else (),
        preserve_share=preserve_share,
        compose=compose,
        fused=fused,
        cache=cache,
        rules=rules.rules(),
        stream=stream,
    )
    named = ExportOptions(checkpoint.name, checkpoint.licence, checkpoint.data_note, options.sampling)
    image_tokenizer = begun.vae if begun and begun.vae and vae is None else find_vae(vae or FIRST_STAGE)
    if begun and begun.vae and image_tokenizer is not begun.vae and not (loop.out / "state.pt").exists():
        from model.training import train_vae
        from model.training.carry_over import to_new_vae

        seen = train_vae.VAEOptions(options.data, options.loop, cache=cache, rules=options.rules, stream=stream)
        pictures = train_vae.find_pictures(seen, find_place(options.loop))
        to_new_vae(begun.transformer, begun.vae, image_tokenizer, pictures, options.loop.seed)
    train(options, image_tokenizer, begun.tokenizer if begun else None, begun.transformer if begun else None)
    if int(os.environ.get("RANK", "0")) == 0:  # under torchrun one process writes
        path = loop.out / "checkpoint"
        clip = begun.clip if begun and image_tokenizer is begun.vae else None  # it reads the same tokens
        export(loop.out, image_tokenizer, path, named, clip)
        typer.echo(path)
