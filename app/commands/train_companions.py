"""`dalle-server train clip | reviser`: the small models that choose among pictures, and that read prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from app.commands.flags import DATA, LEARNING, Data, LoopFlags, RuleFlags, SelectionFlags, preset, spread
from app.commands.train import FIRST_STAGE, SECOND_STAGE, Cache, Stream


@spread(out=Path("runs/clip"), steps=3000, batch=128)
def train_clip(
    data: Data,
    loop: LoopFlags,
    rules: RuleFlags,
    selection: SelectionFlags,
    vae: Annotated[
        Path, Option(help="Folder of the `train vae` run, or of a checkpoint.", rich_help_panel=DATA)
    ] = FIRST_STAGE,
    tokenizer: Annotated[
        Path | None,
        Option(
            help="Folder of the `train transformer` run, or of a checkpoint.",
            show_default=f"{SECOND_STAGE}; with --vae a checkpoint, its own",
            rich_help_panel=DATA,
        ),
    ] = None,
    preset_name: Annotated[
        str, Option("--preset", help="tiny, small or default.", rich_help_panel=LEARNING)
    ] = "default",
    muon_lr: Annotated[
        float, Option(min=0.0, help="Learning rate of the hidden matrices.", rich_help_panel=LEARNING)
    ] = 0.02,
    adam_lr: Annotated[float, Option(min=0.0, help="Learning rate of all the rest.", rich_help_panel=LEARNING)] = 2e-3,
    weight_decay: Annotated[
        float, Option(min=0.0, help="Of matrices, in units of the learning rate.", rich_help_panel=LEARNING)
    ] = 0.05,
    mirror: Annotated[
        float,
        Option(min=0.0, max=1.0, help="Chance of a mirror image, where one is allowed.", rich_help_panel=LEARNING),
    ] = 0.5,
    shift: Annotated[
        int, Option(min=0, max=8, help="Image tokens by which a picture is moved at most.", rich_help_panel=LEARNING)
    ] = 2,
    false_captions: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Chance of a false caption (another colour, side, number) to reject.",
            rich_help_panel=LEARNING,
        ),
    ] = 1.0,
    torn: Annotated[
        float,
        Option(min=0.0, max=1.0, help="Chance of a torn copy of a picture to reject.", rich_help_panel=LEARNING),
    ] = 1.0,
    cache: Cache = Path("data/prepared"),
    stream: Stream = False,
) -> None:
    """The reranker of best_of: a small CLIP, on captions and image tokens. `dalle-server export --clip` adds it."""
    from model.config import CLIP_PRESETS
    from model.tokenizer import Tokenizer
    from model.training.export import find_vae, is_checkpoint
    from model.training.train_clip import ClipOptions, train

    options = ClipOptions(
        tuple(data),
        loop.options(),
        preset(preset_name, CLIP_PRESETS, None),
        muon_lr=muon_lr,
        adam_lr=adam_lr,
        weight_decay=weight_decay,
        mirror=mirror,
        shift=shift,
        false_captions=false_captions,
        torn=torn,
        selection=selection.selection(),
        cache=cache,
        rules=rules.rules(),
        stream=stream,
    )
    words = tokenizer or (vae if is_checkpoint(vae) else SECOND_STAGE)
    train(options, find_vae(vae), Tokenizer.load(words / "tokenizer.json"))
    typer.echo(loop.out)


@spread(out=Path("runs/reviser"), steps=5000, batch=128)
def train_reviser(
    data: Data,
    loop: LoopFlags,
    rules: RuleFlags,
    selection: SelectionFlags,
    tokenizer: Annotated[
        Path | None,
        Option(
            help="Folder of the `train transformer` run, or of a checkpoint.",
            show_default=f"{SECOND_STAGE}; with --start its own",
            rich_help_panel=DATA,
        ),
    ] = None,
    preset_name: Annotated[
        str | None,
        Option("--preset", help="tiny or default.", show_default="default, or --start's", rich_help_panel=LEARNING),
    ] = None,
    start: Annotated[
        Path | None,
        Option(
            help="Begin from this checkpoint's reviser and tokenizer, for a fine-tuned transformer: 300 steps do.",
            show_default="random weights",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    remember: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Share of the samples that say of everyday things what START said.",
            rich_help_panel=LEARNING,
        ),
    ] = 0.6,
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
            show_default="0.002; with --start 0.0003",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    weight_decay: Annotated[
        float, Option(min=0.0, help="Of matrices, in units of the learning rate.", rich_help_panel=LEARNING)
    ] = 0.01,
    cache: Cache = Path("data/prepared"),
) -> None:
    """What says prompts in the captions' words, so that unknown ones find a picture. `export --reviser` adds it."""
    from model.config import REVISER_PRESETS
    from model.tokenizer import Tokenizer
    from model.training.export import find_reviser
    from model.training.train_reviser import ReviserOptions, train

    words = Tokenizer.load((tokenizer or start or SECOND_STAGE) / "tokenizer.json")
    options = ReviserOptions(
        tuple(data),
        loop.options(going_on=start is not None),
        preset(preset_name, REVISER_PRESETS, start),
        muon_lr=muon_lr if muon_lr is not None else 0.003 if start else 0.02,
        adam_lr=adam_lr if adam_lr is not None else 3e-4 if start else 2e-3,
        weight_decay=weight_decay,
        selection=selection.selection(),
        cache=cache,
        rules=rules.rules(),
        remember=remember,
    )
    train(options, words, find_reviser(start, words) if start else None)
    typer.echo(loop.out)
