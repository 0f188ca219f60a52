"""The two verbs of a step, sample and decode, by the native library: for our transformer on the CPU.

Both compute what `SlotDecoder` computes with torch, from the same tensors and into the same tensors. What other
decoders share with it is `NativeStep`.

Arithmetic is float32, or `narrow`: where the processor multiplies bfloat16 numbers, the inputs of linear layers are
rounded to them, and so are queries, keys, values and the shares of attention. Sums, norms, the softmax, the residual
stream and logits stay float32. With int8 arithmetic is float32, and the weights of linear layers are rounded.
"""

from __future__ import annotations

import copy
import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.kernels import layout
from model.kernels.layout import Image, Keeper, Rows, is_narrow
from model.kernels.library import load, multiplies_in_bfloat16
from model.memory import may_copy
from model.transformer import KVCache, Transformer
from model.transformer.local import ABOVE, LEFT, LocalBlock

_COLDEST = 1e-6  # as in `sampling`

Verb = Callable[..., None]  # of a model, a state and rows


class SlotTensors(NamedTuple):
    """The state of every slot beside the KV cache, see `SlotState`."""

    hidden: Tensor
    tokens: Tensor
    drawn: Tensor
    forced: Tensor
    noise: Tensor
    position: Tensor
    begun: Tensor
    bad: Tensor
    score: Tensor

    @staticmethod
    def of(state: object) -> SlotTensors:
        """Those of a `SlotState`."""
        return SlotTensors(*(getattr(state, name) for name in SlotTensors._fields))


class Picture(NamedTuple):
    """How one picture is drawn. rows: of its prompt and of its null prompt, if it has one, counted in a step's rows."""

    slot: int
    rows: Sequence[int]
    guidance: float
    temperature: float  # 0 takes the likeliest token
    opening: float  # the temperature until something is drawn
    top_k: int  # 0 is off
    top_p: float
    scored: bool


class NativeStep(ABC):
    """A transformer, its cache and its slots, as the library sees them. Their tensors must stay where they are."""

    _model: ctypes.Structure
    _state: ctypes.Structure

    def __init__(
        self,
        library: ctypes.CDLL,
        sample: Verb,
        decode: Verb,
        vocab: int,
        dtype: torch.dtype = torch.float32,
        narrow: bool = False,
        rounds: bool = False,
    ) -> None:
        """sample, decode: of the library. vocab: number of image tokens. dtype: of the KV cache. narrow: whether the
        library multiplies in bfloat16. rounds: whether matrices are int8."""
        self._library, self._sample, self._decode, self._vocab = library, sample, decode, vocab
        self.dtype = dtype
        self.products = torch.int8 if rounds else dtype  # as the log names them
        self._keeper = Keeper(narrow, rounds)
        self._rows = Rows()
        self._held: tuple[object, ...] = ()

    @abstractmethod
    def new_cache(self, slots: int) -> Any:
        """As the transformer's, in `dtype`."""

    @abstractmethod
    def bind(self, cache: Any, slots: SlotTensors) -> None:
        """Use this cache and these slots from now on."""

    def share_text(self, source: int, slots: Sequence[int]) -> None:  # noqa: B027 - not every step gains by it
        """Slots that have read the same text as `source`, and may read it there as long as both hold it."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight, as a step reads it: 1 of int8; 2, or 4 if some are no bfloat16 numbers."""
        return self._keeper.weight_bytes

    def arrange(self, slots: Sequence[int], sources: Sequence[int], pictures: Sequence[Picture]) -> None:
        """The rows of the steps that follow: their slots, and the slots whose tokens they read."""
        ids = (ctypes.c_int32 * len(slots))(*slots)
        of = (ctypes.c_int32 * len(slots))(*sources)
        images = (Image * len(pictures))(*map(self._image, pictures))
        self._held = (ids, of, images)
        self._rows = Rows(*(ctypes.addressof(part) for part in (ids, of, images)), len(slots), len(pictures))

    def _image(self, picture: Picture) -> Image:
        row, *null = picture.rows
        greedy = picture.temperature == 0.0
        return Image(
            top_p=picture.top_p,
            slot=picture.slot,
            row=row,
            null_row=null[0] if null else -1,
            greedy=greedy,
            scored=picture.scored and bool(null),
            top_k=min(picture.top_k or self._vocab, self._vocab),
            guidance=picture.guidance if null else 1.0,
            heat=1.0 if greedy else max(picture.temperature, _COLDEST),
            opening=1.0 if greedy else max(picture.temperature, picture.opening, _COLDEST),
        )

    def sample(self) -> None:
        """Draw one group of tokens for every picture; see `SlotDecoder.sample`."""
        self._run(self._sample)

    def decode(self) -> None:
        """Feed the groups just drawn to the rows; see `SlotDecoder.decode`."""
        self._run(self._decode)

    def _run(self, verb: Verb, *more: ctypes.Structure) -> None:
        self._library.dalle_threads(torch.get_num_threads())
        verb(*map(ctypes.byref, (self._model, self._state, self._rows, *more)))


class OwnStep(NativeStep):
    """Of our transformer."""

    def __init__(
        self, library: ctypes.CDLL, transformer: Transformer, narrow: bool = False, rounds: bool = False
    ) -> None:
        verbs, vocab = (library.dalle_sample, library.dalle_decode), transformer.config.image_vocab
        super().__init__(library, *verbs, vocab, torch.bfloat16 if narrow else torch.float32, narrow, rounds)
        self._transformer = transformer
        self._model = _model(transformer, self._keeper)
        self._state = layout.State()

    def new_cache(self, slots: int) -> KVCache:
        return self._transformer.new_cache(slots, self.dtype)

    def bind(self, cache: KVCache, slots: SlotTensors) -> None:
        assert cache.k.dtype == self.dtype
        assert slots.hidden.dtype == torch.float32
        address = self._keeper.address
        for name, tensor in (
            *(("keys", cache.k), ("values", cache.v), ("fed", cache.tokens)),
            *((name, getattr(cache, name)) for name in ("length", "step", "caption")),
            *slots._asdict().items(),
        ):
            setattr(self._state, name, address(tensor))
        self._state.slots, self._state.capacity = cache.slots, cache.capacity


def own_step(transformer: Transformer, dtype: torch.dtype | None) -> OwnStep | None:
    """The native step of our transformer; None where PyTorch has to compute it.

    It multiplies in bfloat16, if the processor does and all weights of matrices are such numbers; else in float32.
    dtype: float32 multiplies in it in any case; int8 does so, too, and rounds the matrices.
    """
    config, parameter = transformer.config, next(transformer.parameters())
    if parameter.device.type != "cpu":
        return None
    sizes = (config.dim, int(config.dim * config.mlp_ratio), config.local_dim, config.code_dim, config.image_vocab)
    if any(size % layout.LANES for size in (*sizes, config.head_dim)) or config.head_dim > layout.MOST_HEAD_DIM:
        return None
    matrices = [parameter for parameter in transformer.parameters() if parameter.dim() == 2]
    if not may_copy(sum(matrix.numel() * matrix.element_size() for matrix in matrices)):
        return None
    narrow = dtype not in (torch.float32, torch.int8) and multiplies_in_bfloat16() and all(map(is_narrow, matrices))
    if narrow and (library := load(narrow=True)):
        return OwnStep(library, transformer, narrow=True)
    library = load() if parameter.dtype == torch.float32 else None
    return OwnStep(library, transformer, rounds=dtype == torch.int8) if library else None


def _model(transformer: Transformer, keeper: Keeper) -> layout.Model:
    config, local = transformer.config, transformer.local
    rotation = transformer.rotations(torch.device("cpu"))
    address, floats, matrix = keeper.address, keeper.floats, keeper.matrix
    blocks = (layout.Block * config.depth)()
    for to, block in zip(blocks, transformer.layers, strict=True):
        to.qkv, to.out = matrix(block.attention.qkv.weight), matrix(block.attention.out.weight)
        to.w1, to.w2 = matrix(block.w1.weight), matrix(block.w2.weight)
        to.norm1, to.norm2 = floats(block.norm1.weight), floats(block.norm2.weight)
        to.gain = floats(block.attention.gain)
    local_blocks = (layout.LocalBlock * config.local_depth)()
    for at, local_block in zip(local_blocks, local.blocks, strict=True):
        assert isinstance(local_block, LocalBlock)
        at.w1, at.w2 = matrix(local_block.w1.weight), matrix(local_block.w2.weight)
        at.norm = floats(local_block.norm.weight)
    with torch.no_grad():
        codes = local.codes() if local.bias.dtype == torch.float32 else copy.deepcopy(local.codes).float()()
        levels = torch.tensor(config.code_levels, dtype=torch.int32)
        shared = torch.cat([part.float() for part in local.codes.shared]) if len(levels) else codes
    return layout.Model(
        group_in=matrix(transformer.group_in.weight),
        from_body=matrix(local.from_body.weight),
        from_above=matrix(local.from_above.weight),
        from_left=matrix(local.from_left.weight),
        to_code=matrix(local.to_code.weight),
        own=matrix(local.codes.own),
        blocks=keeper.keep(blocks),
        local_blocks=keeper.keep(local_blocks),
        places=floats(transformer.places),
        cos=address(rotation.cos),
        sin=address(rotation.sin),
        norm=floats(transformer.norm.weight),
        local_norm=floats(local.norm.weight),
        codes=address(codes),
        bias=floats(local.bias),
        shared=address(shared),
        levels=address(levels),
        level_count=len(levels),
        left=LEFT,
        above=ABOVE,
        **{
            name: getattr(config, name if name != "vocab" else "image_vocab")
            for name in (
                *("dim", "depth", "heads", "kv_heads", "head_dim", "max_text"),
                *("group", "grid", "vocab", "code_dim", "local_dim", "local_depth"),
            )
        },
    )
