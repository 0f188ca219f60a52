"""The two verbs of a step, sample and decode, as launches of the kernels; see `kernels` for what each computes.

All buffers are made once, and nothing is read on the host. So a CUDA graph can hold the launches: a step of so many
rows is always the same launches with the same arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import triton
from torch import Tensor, nn

from model.kernels.gpu import kernels, sampling
from model.kernels.gpu.weights import Folded
from model.kernels.step import SlotTensors
from model.transformer import KVCache, Transformer
from model.transformer.local import LocalBlock

_PIECE = 128  # cached positions that one program of `attend` looks at
_LEAST = 16  # rows and columns of the smallest tile that the GPU multiplies; more rows get larger tiles
_PROGRAMS = 256  # that a product is cut into, if its matrix is large enough: a GPU has some 100 multiprocessors

Launch = Callable[..., None]


def launch(kernel: Any, grid: tuple[int, ...], /, *args: object, **constants: object) -> None:
    """Run a kernel. Fusing is said, because Triton's default changes with its version."""
    kernel[grid](*args, enable_fp_fusion=True, **constants)


@dataclass(frozen=True)
class Tiles:
    """The shape of a product's tiles, and how many warps and stages of a pipeline a program has."""

    rows: int
    out: int
    ins: int
    warps: int
    stages: int

    @staticmethod
    def of(outputs: int, inputs: int, size: int, many: bool) -> Tiles:
        """size: bytes of a number. many: for more than `_LEAST` rows."""
        longest = (256 if many else 512) // size
        ins = next(n for n in (256, 128, 64, 32, 16) if n <= longest and inputs % n == 0)
        if many:  # 32 rows and not 64: Hopper's instruction for 64 rows may add in another order
            return Tiles(32, 64 if outputs >= 64 * 64 else 32, ins, 4, 4)
        return Tiles(_LEAST, next((n for n in (64, 32) if outputs >= n * _PROGRAMS), _LEAST), ins, 4, 4)


class FusedStep:
    """A transformer, its cache and its slots, as the kernels see them. Their tensors must stay where they are.

    Rows are the slots 0 to rows - 1, and `table` (columns, slots) float64 says what they are for, see `Column`.
    """

    def __init__(
        self,
        transformer: Transformer,
        cache: KVCache,
        slots: SlotTensors,
        table: Tensor,
        strict: bool,
        piece: int = _PIECE,
        launch: Launch = launch,
    ) -> None:
        """strict: a row's bits do not depend on how many rows there are (`check`).

        piece: cached positions that a program reads. launch: runs a kernel; a test may note the launches instead.
        """
        self._transformer, self._config, self._cache, self._slots = transformer, transformer.config, cache, slots
        self._table, self._piece, self._launch = table, piece, launch
        self._strict, self._larger = strict, True  # whether more rows get larger tiles
        config, count, like = self._config, table.shape[1], slots.hidden
        self._folded = Folded(transformer)
        self._precision = "ieee" if like.dtype == torch.float32 else "tf32"  # bfloat16 knows no other
        self._pieces = triton.cdiv(cache.capacity, piece)
        inner = config.heads * config.head_dim

        def sums(*shape: int) -> Tensor:
            return torch.zeros(count, *shape, dtype=torch.float32, device=like.device)

        def buffer(width: int) -> Tensor:
            return like.new_zeros(count, width)

        self._x, self._local_x = sums(config.dim), sums(config.local_dim)
        self._normed, self._local_normed = buffer(config.dim), buffer(config.local_dim)
        self._found = sums(config.heads, self._pieces, config.head_dim)
        self._top, self._total = sums(config.heads, self._pieces), sums(config.heads, self._pieces)
        self._qkv, self._attended = buffer(inner + 2 * config.kv_heads * config.head_dim), buffer(inner)
        self._wide, self._local_wide = buffer(int(config.dim * config.mlp_ratio)), buffer(2 * config.local_dim)
        self._code = buffer(config.code_dim)
        self._logits = sums(config.image_vocab)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables and buffers that are held beside the transformer's weights and the cache."""
        held = [*vars(self).values(), *vars(self._folded).values()]
        own = (self._table, *self._slots)
        return sum(
            x.numel() * x.element_size() for x in held if isinstance(x, Tensor) and all(x is not one for one in own)
        )

    def compile(self) -> None:
        """Run every kernel once, on row 0 while nobody holds it, so that all are compiled or found in Triton's cache.

        Raises whatever Triton raises where that cannot be done.
        """
        for many in (False, True):
            self._sample(1, many)
            self._decode(1, many)

    def check(self) -> bool:
        """Whether larger tiles give a row the bits of the smallest ones. In strict mode they are used if they do.

        Both add in the same order, but nobody promises it. So it is measured on matrices of every shape.
        """
        transformer, like = self._transformer, self._normed
        block, local = transformer.layers[-1], transformer.local
        linears = (block.attention.qkv, block.attention.out, block.w1, block.w2, local.from_body, local.to_code)
        same = True
        for weight in (*(linear.weight for linear in linears), self._folded.codes):
            outputs, inputs = weight.shape
            x = torch.randn(2 * _LEAST, inputs, generator=torch.Generator().manual_seed(inputs)).to(like)
            found = [like.new_zeros(len(x), outputs, dtype=torch.float32) for _ in range(2)]
            for many, y in zip((False, True), found, strict=True):
                self._product(y, x, weight, len(x), many)
            same = same and torch.equal(*found)
        self._larger = same or not self._strict
        return same

    def sample(self, rows: int) -> None:
        """Draw one group of tokens for every image; see `SlotDecoder.sample`."""
        self._sample(rows, rows > _LEAST and self._larger)

    def decode(self, rows: int) -> None:
        """Feed the groups just drawn to the rows; see `SlotDecoder.decode`."""
        self._decode(rows, rows > _LEAST and self._larger)

    def _sample(self, rows: int, many: bool) -> None:
        config, local, slots, x, normed = (
            self._config,
            self._transformer.local,
            self._slots,
            self._local_x,
            self._local_normed,
        )
        blocks = cast("list[LocalBlock]", list(local.blocks))
        norms = [*(block.norm for block in blocks), local.norm]
        for j in range(config.group):
            self._launch(
                *(kernels.local_input, (rows,)),
                *(x, normed, norms[0].weight, slots.hidden, slots.drawn, self._folded.left),
                *(self._table, self._table.shape[1]),
                token_of_group=j,
                vocab=config.image_vocab,
                group=config.group,
                dim=config.local_dim,
                padded=triton.next_power_of_2(config.local_dim),
                num_warps=4,
            )
            for block, follows in zip(blocks, norms[1:], strict=True):
                self._feed_forward(x, normed, self._local_wide, block.w1, block.w2, follows, rows, many)
            self._product(self._code, normed, local.to_code.weight, rows, many)
            self._product(self._logits, self._code, self._folded.codes, rows, many, bias=local.bias)
            self._launch(
                *(sampling.draw, (rows,)),
                *(self._logits, slots.noise, slots.forced, slots.tokens, slots.drawn, slots.position),
                *(slots.begun.view(torch.uint8), slots.bad.view(torch.uint8), slots.score),
                *(self._table, self._table.shape[1], config.image_tokens, j),
                group=config.group,
                vocab=config.image_vocab,
                padded=triton.next_power_of_2(config.image_vocab),
                side=config.grid,
                num_warps=16,
            )

    def _decode(self, rows: int, many: bool) -> None:
        config, cache, slots, folded = self._config, self._cache, self._slots, self._folded
        transformer, table, count, x, normed = (
            self._transformer,
            self._table,
            self._table.shape[1],
            self._x,
            self._normed,
        )
        layers = transformer.layers
        norms = [*(block.norm1 for block in layers), transformer.norm]
        self._launch(
            *(kernels.embed, (rows,)),
            *(x, normed, norms[0].weight, slots.drawn, cache.tokens, cache.step, cache.length, cache.caption),
            *(transformer.places, folded.group_in, table, count, config.steps, config.image_tokens),
            vocab=config.image_vocab,
            group=config.group,
            dim=config.dim,
            padded=triton.next_power_of_2(config.dim),
            num_warps=4,
        )
        for i, (block, follows) in enumerate(zip(layers, norms[1:], strict=True)):
            attention = block.attention
            self._product(self._qkv, normed, attention.qkv.weight, rows, many)
            self._attend(rows, attention.gain, cache.k[i], cache.v[i])
            self._product(x, self._attended, attention.out.weight, rows, many, adds=True)
            self._norm(normed, x, block.norm2, rows)
            self._feed_forward(x, normed, self._wide, block.w1, block.w2, follows, rows, many)
        self._product(slots.hidden, normed, transformer.local.from_body.weight, rows, many)
        self._launch(
            *(kernels.near, (rows, config.group)),
            *(slots.hidden, cache.tokens, cache.step, folded.above, folded.left, table, count, config.image_tokens),
            vocab=config.image_vocab,
            group=config.group,
            side=config.grid,
            dim=config.local_dim,
            padded=triton.next_power_of_2(config.local_dim),
            num_warps=4,
        )

    def _attend(self, rows: int, gain: Tensor, keys: Tensor, values: Tensor) -> None:
        config, cache, rotation = self._config, self._cache, self._folded.rotation
        parts = (self._found, self._top, self._total)
        shared = config.heads // config.kv_heads
        self._launch(
            *(kernels.attend, (rows, config.kv_heads, self._pieces)),
            *(*parts, self._qkv, gain, rotation.cos, rotation.sin, keys, values, cache.length, cache.step),
            *(self._table, self._table.shape[1], config.max_text, keys.stride(0), keys.stride(1)),
            config.head_dim**-0.5,
            kv_heads=config.kv_heads,
            shared=shared,
            padded=max(_LEAST, triton.next_power_of_2(shared)),
            head_dim=config.head_dim,
            piece=self._piece,
            precision=self._precision,
            num_warps=4,
        )
        self._launch(
            *(kernels.join, (rows, config.heads)),
            *(self._attended, *parts, cache.length, self._table, self._table.shape[1]),
            heads=config.heads,
            head_dim=config.head_dim,
            pieces=self._pieces,
            padded=triton.next_power_of_2(self._pieces),
            piece=self._piece,
            num_warps=1,
        )

    def _feed_forward(
        self,
        x: Tensor,
        normed: Tensor,
        wide: Tensor,
        w1: nn.Linear,
        w2: nn.Linear,
        follows: nn.LayerNorm,
        rows: int,
        many: bool,
    ) -> None:
        """x += w2 relu(w1 normed)^2; then the norm that follows."""
        self._product(wide, normed, w1.weight, rows, many, squares=True)
        self._product(x, wide, w2.weight, rows, many, adds=True)
        self._norm(normed, x, follows, rows)

    def _norm(self, normed: Tensor, x: Tensor, norm: nn.LayerNorm, rows: int) -> None:
        dim = x.shape[1]
        padded = triton.next_power_of_2(dim)
        self._launch(*(kernels.norm, (rows,)), *(normed, x, norm.weight), dim=dim, padded=padded, num_warps=4)

    def _product(
        self,
        y: Tensor,
        x: Tensor,
        weight: Tensor,
        rows: int,
        many: bool,
        *,
        bias: Tensor | None = None,
        adds: bool = False,
        squares: bool = False,
    ) -> None:
        """y [+]= act(x weight^T + bias), of the first `rows` rows."""
        outputs, inputs = weight.shape
        tiles = Tiles.of(outputs, inputs, weight.element_size(), many)
        self._launch(
            *(kernels.product, (triton.cdiv(outputs, tiles.out), triton.cdiv(rows, tiles.rows))),
            *(y, x, weight, bias, rows),
            inputs=inputs,
            outputs=outputs,
            adds=adds,
            squares=squares,
            precision=self._precision,
            tile_rows=tiles.rows,
            tile_out=tiles.out,
            tile_in=tiles.ins,
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )
