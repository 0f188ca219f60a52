"""`dalle-server train vae | transformer`, `dalle-server export`: from captioned pictures to a checkpoint to serve.

A run is a folder. Start the same command again and it goes on where it was, also after kill -9. On several GPUs:
torchrun --nproc-per-node 4 --no-python dalle-server train ...
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

if TYPE_CHECKING:
    from model.training.loop import LoopOptions

app = typer.Typer(help="Train the VQ-VAE, then the transformer. The same command again goes on with the run.")

Data = Annotated[list[Path], Argument(metavar="DATA...", help="Folders of pictures with captions, or tar shards.")]
Steps = Annotated[int, Option(min=1, help="Optimizer steps in all.")]
Batch = Annotated[int, Option(min=1, help="Samples a step, over all processes.")]
Accumulate = Annotated[int, Option(min=1, help="Parts that a step's batch is computed in, to save memory.")]
Minutes = Annotated[float | None, Option(min=0.0, help="Stop and save after so long.", show_default="no limit")]
Seed = Annotated[int, Option(min=0, help="Of the first weights and of all that is drawn.")]
DeviceName = Annotated[str, Option(help="auto, cpu, cuda, cuda:1 ...")]
Precision = Annotated[str, Option(help="auto (bf16 on CUDA), f32 or bf16.")]
SaveEvery = Annotated[int, Option(min=1, help="Steps between saved states.")]
SampleEvery = Annotated[int, Option(min=1, help="Steps between sample sheets.")]
Cache = Annotated[Path, Option(help="Where pictures and tokens are kept ready.")]
FirstStage = Annotated[Path, Option("--vae", help="Folder of the `train vae` run, or of a checkpoint.")]
Name = Annotated[str, Option(help="The model's name.")]
Licence = Annotated[str, Option(help="The weights' licence.")]
DataNote = Annotated[str, Option("--data-note", help="What it was trained on, in words.")]


def _loop(precision: str, steps: int, **options: Any) -> LoopOptions:
    from model.training.loop import LoopOptions

    if precision not in ("auto", "f32", "bf16"):
        raise typer.BadParameter(f"{precision} is none of auto, f32, bf16", param_hint="--precision")
    return LoopOptions(precision=precision, steps=steps, warmup=min(100, max(1, steps // 10)), **options)


def _preset(name: str, presets: dict[str, dict[str, Any]]) -> str:
    if name not in presets:
        raise typer.BadParameter(f"{name} is none of {', '.join(presets)}", param_hint="--preset")
    return name


def _mix(shares: list[str]) -> dict[str, float]:
    """["single=0.6", "pair=0.4"] -> shares by kind."""
    mix: dict[str, float] = {}
    for share in shares:
        kind, _, value = share.partition("=")
        try:
            mix[kind] = float(value)
        except ValueError:
            raise typer.BadParameter(f"{share} is not KIND=SHARE, as in single=0.6", param_hint="--mix") from None
    return mix


def _names(path: Path | None) -> frozenset[str]:
    """The concepts named in a file, one a line."""
    try:
        lines = path.read_text().splitlines() if path else []
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="--concepts") from None
    return frozenset(line.strip() for line in lines if line.strip())


@app.command("vae")
def train_vae(
    data: Data,
    out: Annotated[Path, Option("-o", "--out", help="The run's folder.")] = Path("runs/vae"),
    preset: Annotated[str, Option(help="tiny, small or default.")] = "default",
    steps: Steps = 20_000,
    batch: Batch = 16,
    accumulate: Accumulate = 1,
    minutes: Minutes = None,
    seed: Seed = 0,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    save_every: SaveEvery = 200,
    sample_every: SampleEvery = 1000,
    cache: Cache = Path("data/prepared"),
    start: Annotated[
        Path | None, Option(help="Begin from this run's or checkpoint's VAE.", show_default="random weights")
    ] = None,
    decoder_only: Annotated[
        bool, Option("--decoder-only", help="Leave the codes as they are: tokens and transformers stay valid.")
    ] = False,
) -> None:
    """Stage 1: the VQ-VAE, on pictures alone."""
    from model.config import VAE_PRESETS
    from model.training.export import find_vae
    from model.training.train_vae import VAEOptions, train

    loop = _loop(
        precision,
        steps,
        out=out,
        batch=batch,
        accumulate=accumulate,
        minutes=minutes,
        seed=seed,
        device=device,
        save_every=save_every,
        sample_every=sample_every,
    )
    if decoder_only and start is None:
        raise typer.BadParameter(
            "needs --start: only a trained encoder's codes are worth keeping", param_hint="--decoder-only"
        )
    options = VAEOptions(tuple(data), loop, _preset(preset, VAE_PRESETS), cache=cache, decoder_only=decoder_only)
    train(options, find_vae(start) if start else None)
    typer.echo(out)


@app.command("transformer")
def train_transformer(
    data: Data,
    vae: FirstStage = Path("runs/vae"),
    out: Annotated[Path, Option("-o", "--out", help="The run's folder.")] = Path("runs/transformer"),
    preset: Annotated[str, Option(help="tiny, small, default, 400M or 1.3B.")] = "default",
    steps: Steps = 20_000,
    batch: Batch = 32,
    accumulate: Accumulate = 1,
    minutes: Minutes = None,
    seed: Seed = 0,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    save_every: SaveEvery = 200,
    sample_every: SampleEvery = 1000,
    cache: Cache = Path("data/prepared"),
    concept: Annotated[list[str] | None, Option(help="Learn this concept (repeat; x* for any ending).")] = None,
    concepts: Annotated[Path | None, Option(help="File of concepts to learn.", show_default="none")] = None,
    source: Annotated[list[str] | None, Option(help="Learn from this source (repeat).")] = None,
    mix: Annotated[list[str] | None, Option(help="KIND=SHARE of the samples (repeat).")] = None,
    prompt: Annotated[
        list[str] | None, Option(help="Of the sample sheets (repeat).", show_default="24 common things")
    ] = None,
    mirror: Annotated[float, Option(min=0.0, max=1.0, help="Chance of a mirror image, where one is allowed.")] = 0.5,
    withhold: Annotated[
        float, Option(min=0.0, max=1.0, help="Largest share of a picture's tokens that is withheld as inputs.")
    ] = 0.3,
    start: Annotated[
        Path | None, Option(help="Begin from this run's or checkpoint's weights.", show_default="random weights")
    ] = None,
    name: Name = "dalle-server",
    licence: Licence = "unstated",
    data_note: DataNote = "unstated",
) -> None:
    """Stage 2: the transformer, on captions and image tokens. Leaves a checkpoint to serve in OUT/checkpoint."""
    from model.config import TRANSFORMER_PRESETS
    from model.training.export import ExportOptions, export, find_transformer, find_vae
    from model.training.selection import Selection
    from model.training.train_transformer import PROMPTS, TransformerOptions, train

    loop = _loop(
        precision,
        steps,
        out=out,
        batch=batch,
        accumulate=accumulate,
        minutes=minutes,
        seed=seed,
        device=device,
        save_every=save_every,
        sample_every=sample_every,
    )
    names = frozenset(concept or ()) | _names(concepts)
    selection = Selection(names, frozenset(source or ()), _mix(mix or []))
    chosen = _preset(preset, TRANSFORMER_PRESETS)
    prompts = tuple(prompt or PROMPTS)
    image_tokenizer = find_vae(vae)
    options = TransformerOptions(
        tuple(data),
        loop,
        chosen,
        selection=selection,
        prompts=prompts,
        cache=cache,
        mirror=mirror,
        withhold=withhold,
    )
    weights, words = find_transformer(start) if start else (None, None)
    train(options, image_tokenizer, words, weights)
    if int(os.environ.get("RANK", "0")) == 0:  # under torchrun one process writes
        export(out, image_tokenizer, out / "checkpoint", ExportOptions(name, licence, data_note))
        typer.echo(out / "checkpoint")


def export_run(
    run: Annotated[Path, Argument(metavar="RUN", help="Folder of a `train transformer` run, finished or not.")],
    out: Annotated[Path, Option("-o", "--out", help="Folder of the checkpoint to write.")],
    vae: FirstStage = Path("runs/vae"),
    name: Name = "dalle-server",
    licence: Licence = "unstated",
    data_note: DataNote = "unstated",
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
    export(run, find_vae(vae), out, ExportOptions(name, licence, data_note, sampling, tuple(document or ())))
    typer.echo(out)
