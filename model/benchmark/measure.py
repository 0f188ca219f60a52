"""Measures one checkpoint on one device: prefill, decoding at several widths, whole pictures, the VQ decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from model.benchmark.floor import counted_operations, prefill_seconds
from model.benchmark.machine import Machine, best, measure_machine
from model.benchmark.steps import TEXT, Pictures, in_turns, paint, painting_seconds
from model.checkpoints import Checkpoint
from model.checkpoints.networks import AnyCache, AnyTransformer
from model.inference.devices import pick_dtype
from model.inference.engine import Engine
from model.inference.requests import SamplingParams

TOGETHER = 16  # pictures at once, beside one alone
CROWD = 256  # and on a GPU


@dataclass(frozen=True)
class Part:
    """Something that is measured by itself, and its floor, in seconds."""

    name: str
    seconds: float
    floor: float


@dataclass(frozen=True)
class Result:
    """What was measured of a checkpoint.

    dtype: what the engine computes in. steps: without guidance, by the number of rows. pictures: as a server paints
    them, with the checkpoint's guidance, by their number. strict, loose: TOGETHER of them within strict mode and
    outside, measured in turns, not decoded. painting: the floor of the VQ decoder for one picture, in seconds.
    side: pixels of a picture's side.
    """

    machine: Machine
    name: str
    parameters: int
    dtype: str
    params: SamplingParams
    transformer: AnyTransformer
    parts: tuple[Part, ...]
    steps: dict[int, Pictures]
    pictures: dict[int, Pictures]
    strict: Pictures
    loose: Pictures
    painting: float
    side: int

    @property
    def strict_cost(self) -> float:
        """How much longer strict mode takes for TOGETHER pictures, as a share."""
        return self.strict.step / self.loose.step - 1

    def picture_floor(self, images: int) -> float:
        """The floor of so many pictures at once, in seconds: the prompt, the steps and the VQ decoder."""
        found = self.pictures[images]
        middle = found.floor(self.transformer, self.machine, found.total / 2)
        prefill = self.parts[0].floor
        return prefill + found.total * middle + images * self.painting


def measure(
    checkpoint: Checkpoint,
    device: torch.device,
    *,
    rows: Sequence[int] = (1, 4, 16, 64),
    images: Sequence[int] = (),
    seed: int = 0,
    seconds: float = 8.0,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Result:
    """Measure `checkpoint`, which is moved to `device`.

    rows: of a step, each measured over whole pictures. images: painted at once, beside one and TOGETHER. seed: of the
    pictures. seconds: for each of these, where one run does not take longer; a run of three times as long is cut short.
    """
    dtype = pick_dtype("auto", device)
    on_progress("memory and arithmetic")
    machine = measure_machine(device)
    on_progress("the engine")
    config = checkpoint.config
    params = SamplingParams.of(config.sampling, seed=seed)
    counts = (1, TOGETHER, *images)
    slots = max(*rows, 2 * max(counts))
    engine = Engine(checkpoint, slots=slots, device=device, dtype=dtype)
    engine.warm_up()
    transformer = checkpoint.transformer
    parts = [_prefill(engine, transformer, machine, TEXT), *_longest_prefill(engine, transformer, machine)]
    steps = {}
    for width in rows:
        on_progress(f"decoding {width} rows")
        steps[width] = paint(engine, width, replace(params, guidance=1.0), seconds)
    pictures = {}
    for count in counts:
        on_progress(f"painting {count} at once")
        pictures[count] = paint(engine, count, params, seconds, pixels=True)
    on_progress("the VQ decoder")
    parts.append(painting := _painting(engine, machine))
    on_progress("fast mode")
    fast = Engine(checkpoint, slots=2 * TOGETHER, device=device, dtype=dtype, strict=False)
    fast.warm_up()
    strict, loose = in_turns((engine, fast), TOGETHER, params, seconds)
    return Result(
        machine,
        config.name,
        sum(p.numel() for part in (checkpoint.transformer, checkpoint.vae) for p in part.parameters()),
        str(engine.decoder.dtype).removeprefix("torch."),
        params,
        transformer,
        tuple(parts),
        steps,
        pictures,
        strict,
        loose,
        painting.floor,
        engine.image_codec.size,
    )


def _longest_prefill(engine: Engine, transformer: AnyTransformer, machine: Machine) -> list[Part]:
    """Of a text with as many ids as fit, if texts have different lengths."""
    if engine.config.text_positions(2) == engine.config.text_positions(engine.config.max_ids):
        return []
    return [_prefill(engine, transformer, machine, f"{TEXT} " * engine.config.max_ids)]


@torch.inference_mode()
def _prefill(engine: Engine, transformer: AnyTransformer, machine: Machine, text: str) -> Part:
    ids = engine.tokenizer.encode(text, truncate=True)
    cache: AnyCache = transformer.new_cache(2)
    device = engine.device
    tensor, slot = torch.tensor([list(ids)], device=device), torch.tensor([0], device=device)
    seconds = best(lambda: transformer.prefill(cache, slot, tensor), device, 5)
    return Part(f"prefill, {len(ids)} ids", seconds, prefill_seconds(transformer, machine, len(ids)))


@torch.inference_mode()
def _painting(engine: Engine, machine: Machine) -> Part:
    """The VQ decoder. Strict mode paints one picture after another."""
    codec = engine.image_codec
    tokens = torch.zeros(1, engine.config.image_tokens, dtype=torch.int64, device=engine.device)
    operations = counted_operations(lambda: codec.vae.decode(tokens))
    return Part("VQ decoder, a picture", painting_seconds(engine), operations / machine.multiply)
