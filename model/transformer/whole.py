"""The parts of the pass over whole sequences, for training and for uncached logits.

The shapes of what they compute depend on the shapes of their inputs alone, and nothing is read back from the device. So
each part can be compiled, and a GPU never waits for the host.

Texts of a batch differ in length. Their padding is moved behind the picture, where causal attention never looks, so no
mask is needed, and a GPU can use its flash kernel (2205.14135).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from model.transformer.attention import Rotation

if TYPE_CHECKING:
    from model.transformer.local import Local
    from model.transformer.transformer import Block, Transformer


@torch.library.custom_op("dalle::table_gradient", mutates_args=())
def _table_gradient(grad: Tensor, ids: Tensor, rows: int) -> Tensor:
    return torch.ops.aten.embedding_dense_backward(grad, ids, rows, -1, False)


@_table_gradient.register_fake
def _(grad: Tensor, ids: Tensor, rows: int) -> Tensor:  # noqa: ARG001
    return grad.new_empty(rows, grad.shape[-1])


class _Look(torch.autograd.Function):
    """F.embedding. Compiled code also takes PyTorch's own gradient, which sorts, and not a slower scatter."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.rows = table.shape[0]
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (ids,) = ctx.saved_tensors
        return None, _table_gradient(grad.contiguous(), ids, ctx.rows)


def _roll(x: Tensor, by: Tensor) -> Tensor:
    b, n = x.shape[:2]
    rows = torch.arange(b, device=x.device)[:, None] * n
    index = (torch.arange(n, device=x.device) - by[:, None]) % n + rows
    return x.flatten(0, 1).index_select(0, index.flatten()).view(x.shape)


class _Rolled(torch.autograd.Function):
    """x (b, n, ...), by (b,) -> x, each row of which is rolled towards its end. The gradient is rolled back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, by: Tensor) -> Tensor:
        ctx.save_for_backward(by)
        return _roll(x, by)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (by,) = ctx.saved_tensors
        return _roll(grad, -by), None


def look(ids: Tensor, table: Tensor) -> Tensor:
    """ids (...), table (rows, dim) -> (..., dim)."""
    found: Tensor = _Look.apply(ids, table)  # type: ignore[no-untyped-call]
    return found


def rolled(x: Tensor, by: Tensor) -> Tensor:
    """x (b, n, dim) with row i rolled by by[i] positions, by (b,) int64: what leaves the end comes in at the start."""
    found: Tensor = _Rolled.apply(x, by)  # type: ignore[no-untyped-call]
    return found


def arranged(told: Tensor, lengths: Tensor, drawn: Tensor, places: Tensor, table: Rotation) -> tuple[Tensor, Rotation]:
    """Texts, each followed at once by its picture, and then by the text's padding.

    told (b, t, dim): of texts, of which the first `lengths` (b,) count. drawn (b, k, dim): of pictures. places
    (b | 1, k): their rows in `table`. Returns (b, t + k, dim) and its rotations, each (b, 1, t + k, head_dim).
    """
    t, k = told.shape[1], drawn.shape[1]
    place = torch.arange(t + k, device=told.device)
    is_text = place < lengths[:, None]  # (b, t + k)
    behind = rolled(F.pad(drawn.to(told.dtype), (0, 0, 0, t)), lengths)
    x = torch.where(is_text.unsqueeze(-1), F.pad(told, (0, 0, 0, k)), behind)
    places = torch.where(is_text, place, _roll(F.pad(places.expand(len(told), -1), (0, t)), lengths))
    return x, Rotation(*(part[places].unsqueeze(1) for part in table))


def enter(
    model: Transformer, table: Rotation, text_ids: Tensor, lengths: Tensor, image_ids: Tensor, seen: Tensor | None
) -> tuple[Tensor, Rotation, Tensor]:
    """The body's input and its rotations, see `arranged`; and the code vectors (b, grid, grid, code_dim).

    table: `model.rotations`. The rest: see `Transformer.states`.
    """
    config = model.config
    embedded = look(image_ids, model.local.codes())  # (b, image tokens, code_dim)
    if seen is not None:
        embedded = embedded * seen.unsqueeze(-1).to(embedded.dtype)
    groups = rearrange(embedded, "b (s g) d -> b s (g d)", g=config.group)[:, :-1]
    words = look(text_ids, model.text_table.weight)
    caption = model.caption(words, lengths)
    told = model.embed(words, lengths, caption)
    drawn = model.embed_groups(groups, model.places[1 : config.steps].unsqueeze(0), caption)
    places = config.max_text + torch.arange(1, config.steps, device=text_ids.device).unsqueeze(0)
    x, rotation = arranged(told, lengths, drawn, places, table)
    return x, rotation, rearrange(embedded, "b (h w) d -> b h w d", h=config.grid)


def through(block: Block, x: Tensor, rotation: Rotation) -> Tensor:
    """One block, causal. A function, so that it is compiled once for all blocks."""
    return block.feed_forward(x + block.attention(block.norm1(x), rotation, None)[0])


def leave(model: Transformer, x: Tensor, lengths: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """The body's output -> states of the text (b, t, dim), and where the local network starts; as `Transformer.states`.

    Behind a text's `lengths`, its states are of the picture.
    """
    x = model.norm(x)
    steps = model.config.steps
    predicting = rolled(x, 1 - lengths)[:, :steps]  # <eot> predicts the first group
    return x[:, : x.shape[1] - steps + 1], model.local_inputs(predicting, grid)


def refine(local: Local, inputs: Tensor) -> Tensor:
    """`Local.refine`, as a function."""
    return local.refine(inputs)


@dataclass(frozen=True)
class Parts:
    """The functions that a pass is made of. Training puts compiled ones here."""

    enter: Callable[..., tuple[Tensor, Rotation, Tensor]] = enter
    through: Callable[..., Tensor] = through
    leave: Callable[..., tuple[Tensor, Tensor]] = leave
    refine: Callable[..., Tensor] = refine


def compiled(*, fixed: bool, **how: Any) -> Parts:
    """The parts, compiled. fixed: all of them, for the shapes that come first; else the blocks alone, for any shape.

    how: further arguments of torch.compile.
    """
    of = partial(torch.compile, dynamic=not fixed, **how)
    return Parts(of(enter), of(through), of(leave), of(refine)) if fixed else Parts(through=of(through))
