"""The options of training, stage by stage: every knob with its help, default and limits.

`dalle-server train`, `export`, `evaluate` and `corpus` make their flags from them. The module imports no torch, so that
--help is fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from model.config import (
    CLIP_PRESETS,
    DALLE_PYTORCH_PRESETS,
    REVISER_PRESETS,
    TRANSFORMER_PRESETS,
    VAE_PRESETS,
    CheckpointConfig,
    SamplingDefaults,
)
from model.errors import InvalidRequest
from model.limits import fault
from model.training.knobs import group, knob, share
from model.training.rules import RULES, Rules
from model.training.selection import Selection

PREPARED = Path("data/prepared")
PROMPTS = (
    "a red apple", "a cat", "a rocket", "a slice of pizza", "the flag of japan", "a blue circle",
    "a dog", "a house", "a tree", "the sun", "a car", "a yellow star",
    "a fish", "a rose", "a robot", "a cup of coffee", "a snowman", "a bus",
    "a grinning face", "a red heart", "a banana", "an octopus", "a guitar", "a green apple on a blue background",
)  # fmt: skip
SIZE = "Size of the model."
SIZE_OR_SHAPE = "Size of the model; or a shape of DALLE-pytorch, to which export can give it back."
MUON_LR = "Peak learning rate of the Muon optimizer. It trains the hidden matrices and kernels."
ADAM_LR = "Peak learning rate of the AdamW optimizer. It trains all other weights."
MIRROR = share("Chance that a picture is mirrored, if its caption allows it.")
WEIGHT_DECAY = knob("Weight decay of matrices. It is multiplied by the learning rate.", ge=0)
PRESETS = (*TRANSFORMER_PRESETS, *DALLE_PYTORCH_PRESETS)
CACHE = knob("Folder for prepared pictures and tokens. Later runs use them again.")
STREAM = knob("Read tars one after another, each picture once an epoch, instead of copying all pictures to the cache.")


@dataclass(frozen=True)
class LoopOptions:
    """How long and where to train."""

    out: Path = field(metadata=knob("Folder of the run. If it holds a run already, that run goes on."))
    steps: int = field(metadata=knob("Number of optimizer steps.", ge=1))
    batch: int = field(metadata=knob("Samples in a step, over all processes.", ge=1))
    accumulate: int = field(
        default=1,
        metadata=knob(
            "Parts that a step's batch is split into. They are computed one after another, which saves memory.", ge=1
        ),
    )
    warmup: int | None = field(
        default=None,
        metadata=knob(
            "Steps at the start in which the learning rate rises.", ge=1, shown="100, or a tenth of the steps"
        ),
    )
    cooldown: float = field(
        default=0.4, metadata=share("Share of the steps, at the end, in which the learning rate falls.")
    )
    ema: float = field(
        default=0.999,
        metadata=share("Decay of the averaged weights. The averaged weights are what training yields."),
    )
    clip: float = field(
        default=1.0, metadata=knob("Largest norm of the gradient. A larger gradient is scaled down to it.", ge=0)
    )
    seed: int = field(default=0, metadata=knob("Seed of the initial weights and of every random choice.", ge=0))
    device: str = field(default="auto", metadata=knob("Where to compute: auto, cpu, cuda, cuda:1 ..."))
    precision: str = field(
        default="auto",
        metadata=knob(
            "Number format of the arithmetic. auto takes bf16 on a GPU and f32 on a CPU.",
            choices=("auto", "f32", "bf16"),
        ),
    )
    report_every: int = field(default=20, metadata=knob("Steps between lines of the log.", ge=1))
    save_every: int = field(
        default=200,
        metadata=knob("Steps between saved states. A run that was stopped goes on from the last one.", ge=1),
    )
    sample_every: int = field(default=1000, metadata=knob("Steps between sample sheets.", ge=1))
    minutes: float | None = field(
        default=None,
        metadata=knob(
            "Stop after this many minutes of training, over all starts of the run, and save. Learning rates then fall "
            "in time for it. With more minutes the same command goes on.",
            ge=0,
            shown="no limit",
        ),
    )
    workers: int | None = field(
        default=None,
        metadata=knob(
            "Processes that make batches ahead of the steps.",
            ge=0,
            shown="beside a GPU all processors but one, at most 16; else 0",
        ),
    )

    @property
    def warmup_steps(self) -> int:
        """Steps in which the learning rate rises."""
        return self.warmup or min(100, max(1, self.steps // 10))


@dataclass(frozen=True)
class VAEOptions:
    """`dalle-server train vae`."""

    data: tuple[Path, ...]  # folders or tar shards
    loop: LoopOptions = field(metadata=group(out=Path("runs/vae"), batch=16, steps=20_000, with_start={"steps": 1000}))
    preset: str = field(default="default", metadata=knob(SIZE, choices=tuple(VAE_PRESETS)))
    decoder_blocks: int | None = field(
        default=None,
        metadata=knob(
            "Residual blocks of the decoder at 32 x 32. More than a start has make its decoder deeper.",
            ge=1,
            shown="the preset's; with --start the start's",
        ),
    )
    decoder_mid_blocks: int | None = field(
        default=None,
        metadata=knob(
            "Residual blocks of the decoder at 64 x 64. More than a start has make its decoder deeper.",
            ge=1,
            shown="the preset's; with --start the start's",
        ),
    )
    muon_lr: float = field(default=0.02, metadata=knob(MUON_LR, ge=0, with_start=0.005))
    adam_lr: float = field(default=2e-3, metadata=knob(ADAM_LR, ge=0, with_start=5e-4))
    even: float = field(
        default=0.2, metadata=knob("Weight of the loss that makes all codes of the codebook used equally often.", ge=0)
    )
    crop: int = field(
        default=128,
        metadata=knob("Side of the crops that it learns from, in pixels. 256 are whole pictures.", ge=32, le=256),
    )
    exchange: float = field(default=0.25, metadata=share("Chance that a crop's colour channels are exchanged."))
    cache: Path = field(default=PREPARED, metadata=CACHE)
    decoder_only: bool = field(
        default=False,
        metadata=knob("Train the decoder alone. The codes stay as they are, so transformers that use them stay valid."),
    )
    rules: Rules = field(default=RULES, metadata=group())
    stream: bool = field(default=False, metadata=STREAM)

    @property
    def depths(self) -> dict[str, int]:
        """The depths of the decoder that are given, as fields of VAEConfig."""
        asked = {"decoder_blocks": self.decoder_blocks, "decoder_mid_blocks": self.decoder_mid_blocks}
        return {name: depth for name, depth in asked.items() if depth is not None}


@dataclass(frozen=True)
class TransformerOptions:
    """`dalle-server train transformer`."""

    data: tuple[Path, ...]  # folders or tar shards
    loop: LoopOptions = field(
        metadata=group(out=Path("runs/transformer"), batch=32, steps=20_000, with_start={"steps": 1000})
    )
    preset: str = field(default="default", metadata=knob(SIZE_OR_SHAPE, choices=PRESETS))
    muon_lr: float = field(default=0.02, metadata=knob(MUON_LR, ge=0, with_start=0.003))
    adam_lr: float = field(default=3e-3, metadata=knob(ADAM_LR, ge=0, with_start=1.5e-3))
    weight_decay: float = field(default=0.01, metadata=WEIGHT_DECAY)
    null_captions: float = field(
        default=0.1,
        metadata=share("Share of the pictures that are learnt without their caption. Guidance needs it."),
    )
    clutter: float = field(
        default=0.0,
        metadata=share(
            "Share of the captions that are changed into texts as people type them. They get words around them "
            '("draw a happy cat at night"), or name a kind of the thing ("a tabby") or an idea ("curiosity").'
        ),
    )
    contradict: float = field(
        default=0.0,
        metadata=share(
            "Share of the pictures that get another picture's caption. Only their later part is learnt. So the model "
            "learns to finish a picture that it has begun, even if the words do not fit."
        ),
    )
    withhold: float = field(
        default=1.0,
        metadata=share(
            "Largest share of a picture's tokens that the model does not see. The share is drawn anew for half of "
            "the pictures that are not blind. The model sees the other half whole."
        ),
    )
    blind: float = field(
        default=0.2,
        metadata=share("Share of the pictures of which the model sees no token, only the words."),
    )
    glimpses: int = field(
        default=0,
        metadata=knob(
            "Further captions that are learnt with each picture. For each the model predicts only a few tokens of the "
            "picture, at a tenth of the cost of the whole picture. With clutter they are all changed into texts as "
            "people type them.",
            ge=0,
            le=64,
        ),
    )
    mirror: float = field(default=0.5, metadata=MIRROR)
    easy_share: float = field(
        default=0.25,
        metadata=knob(
            "Share of the easy tokens that are learnt. A token is easy if it repeats its neighbours. Those that are "
            "learnt weigh more in return.",
            ge=0.01,
            le=1,
        ),
    )
    vocabulary: int = field(
        default=8192, metadata=knob("Text tokens of the tokenizer that is made. A start brings its own.", ge=260)
    )
    selection: Selection = field(default_factory=Selection, metadata=group())
    prompts: tuple[str, ...] = field(
        default=PROMPTS, metadata=knob("A prompt of the sample sheets.", shown="24 common things")
    )
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)  # of the sheets, and of what is preserved
    preserve: tuple[str, ...] = ()  # prompts that the start draws itself, so as not to forget them
    preserve_share: float = field(
        default=0.4, metadata=share("Share of the samples that are drawings of the prompts to preserve.")
    )
    compose: bool = field(
        default=False,
        metadata=knob(
            "Cut out things that stand alone on a plain background. Learn them also on other colours, several times, "
            "and beside what is preserved. This takes a folder of at most 2000 pictures.",
        ),
    )
    fused: bool | None = field(
        default=None,
        metadata=knob(
            "Compile the blocks and the loss. This takes a minute before the first step and makes each step faster.",
            shown="true on a GPU if there is a C compiler",
        ),
    )
    cache: Path = field(default=PREPARED, metadata=CACHE)
    rules: Rules = field(default=RULES, metadata=group())
    stream: bool = field(default=False, metadata=STREAM)


@dataclass(frozen=True)
class ClipOptions:
    """`dalle-server train clip`."""

    data: tuple[Path, ...]  # folders or tar shards
    loop: LoopOptions = field(metadata=group(out=Path("runs/clip"), batch=128, steps=3000))
    preset: str = field(default="default", metadata=knob(SIZE, choices=tuple(CLIP_PRESETS)))
    muon_lr: float = field(default=0.02, metadata=knob(MUON_LR, ge=0))
    adam_lr: float = field(default=2e-3, metadata=knob(ADAM_LR, ge=0))
    weight_decay: float = field(default=0.05, metadata=WEIGHT_DECAY)
    mirror: float = field(default=0.5, metadata=MIRROR)
    shift: int = field(
        default=2,
        metadata=knob(
            "Most image tokens that a picture is moved by, in each direction. Its edge is repeated.", ge=0, le=8
        ),
    )
    false_captions: float = field(
        default=1.0,
        metadata=share(
            "Chance that a picture also gets a false caption to reject. One of its words is changed, such as a "
            "colour, a side or a number."
        ),
    )
    torn: float = field(
        default=1.0,
        metadata=share(
            "Chance that a caption also gets a torn picture to reject. Parts of it are missing or of another picture."
        ),
    )
    selection: Selection = field(default_factory=Selection, metadata=group())
    cache: Path = field(default=PREPARED, metadata=CACHE)
    rules: Rules = field(default=RULES, metadata=group())
    stream: bool = field(default=False, metadata=STREAM)


@dataclass(frozen=True)
class ReviserOptions:
    """`dalle-server train reviser`."""

    data: tuple[Path, ...]  # folders or tar shards, as the transformer learns from
    loop: LoopOptions = field(metadata=group(out=Path("runs/reviser"), batch=128, steps=5000))
    preset: str = field(default="default", metadata=knob(SIZE, choices=tuple(REVISER_PRESETS)))
    muon_lr: float = field(default=0.02, metadata=knob(MUON_LR, ge=0, with_start=0.003))
    adam_lr: float = field(default=2e-3, metadata=knob(ADAM_LR, ge=0, with_start=3e-4))
    weight_decay: float = field(default=0.01, metadata=WEIGHT_DECAY)
    selection: Selection = field(default_factory=Selection, metadata=group())
    cache: Path = field(default=PREPARED, metadata=CACHE)
    rules: Rules = field(default=RULES, metadata=group())
    remember: float = field(
        default=0.6,
        metadata=share(
            "Share of the samples that repeat what the start says of everyday things, so that it is not forgotten."
        ),
    )


@dataclass(frozen=True)
class EvaluateOptions:
    """Which pictures `dalle-server evaluate` takes."""

    rules: Rules = field(default=RULES, metadata=group())
    cache: Path = field(default=PREPARED, metadata=CACHE)


@dataclass(frozen=True)
class SamplingChanges:
    """Sampling defaults of a checkpoint. Those that are not given are taken from the VAE's checkpoint."""

    temperature: float | None = field(
        default=None,
        metadata=knob(
            "Default temperature. 0 takes the likeliest token.", ge=0, le=5, shown="that of --vae, if a checkpoint"
        ),
    )
    top_k: int | None = field(
        default=None,
        metadata=knob(
            "Default number of likeliest tokens that are drawn from. 0 draws from all.",
            ge=0,
            shown="that of --vae, if a checkpoint",
        ),
    )
    top_p: float | None = field(
        default=None,
        metadata=share(
            "Default probability that the tokens that are drawn from have together.",
            shown="that of --vae, if a checkpoint",
        ),
    )
    guidance: float | None = field(
        default=None,
        metadata=knob(
            "Default guidance: how closely to follow the text. 1 is off.",
            ge=0,
            le=20,
            shown="that of --vae, if a checkpoint",
        ),
    )
    opening: float | None = field(
        default=None,
        metadata=knob(
            "Default lower limit of the temperature until something is drawn on the background. 0 is off.",
            ge=0,
            le=5,
            shown="that of --vae, if a checkpoint",
        ),
    )


@dataclass(frozen=True)
class ExportOptions:
    """What a checkpoint states that a run does not know, for `dalle-server export`."""

    name: str = field(default="dalle-server", metadata=knob("Name of the model, as its checkpoint states it."))
    licence: str = field(default="unstated", metadata=knob("Licence of the weights, as the checkpoint states it."))
    data_note: str = field(
        default="unstated", metadata=knob("What the model was trained on, in words. The checkpoint states it.")
    )
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    documents: tuple[Path, ...] = ()  # files put beside the weights, under their own names

    def __post_init__(self) -> None:
        """Raises InvalidRequest for a text that no checkpoint may have, so that hours of training are not in vain."""
        said = {"name": self.name, "licence": self.licence, "provenance": {"data": self.data_note}}
        for name, value in said.items():
            if told := fault(CheckpointConfig, name, value):
                raise InvalidRequest(name, told)
