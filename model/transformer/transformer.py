"""Our decoder-only transformer: text tokens, then 1024 image tokens in raster order.

The body attends over the text and over groups of `group` image tokens, so a picture of 1024 tokens takes 256 steps of
the body and a KV cache a quarter as long; `local.Local` draws the tokens of a group (MegaByte, 2305.07185). Every
image position is also told the prompt's mean token vector, which ties words to places early in training.

Token ids only: it knows nothing of words or pixels. Text ids are <bos>, the prompt, <eot>, as the tokenizer makes them.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.config import TransformerConfig
from model.transformer.attention import Attention, Rotation, rotation_table
from model.transformer.cache import KVCache
from model.transformer.linear import Linear
from model.transformer.local import ABOVE, LEFT, Local

_PACKED_AT_MOST = 2**30  # bytes

TextState = list[tuple[Tensor, Tensor]]  # of each layer: the keys and values of the text read so far


class Block(nn.Module):
    """Pre-norm attention and squared-ReLU feed-forward; starts as the identity."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        hidden = int(config.dim * config.mlp_ratio)
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-6, bias=False)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-6, bias=False)
        self.w1 = Linear(config.dim, hidden, bias=False)
        self.w2 = Linear(hidden, config.dim, bias=False)
        nn.init.zeros_(self.w2.weight)

    def feed_forward(self, x: Tensor) -> Tensor:
        """x plus its feed-forward; (..., dim)."""
        return x + self.w2(F.relu(self.w1(self.norm2(x))).square())


def through(block: Block, x: Tensor, rotation: Rotation, mask: Tensor) -> Tensor:
    """A block over whole sequences; see `Attention.forward`. A function of the block, so that it is compiled once."""
    return block.feed_forward(x + block.attention(block.norm1(x), rotation, mask)[0])


class Transformer(nn.Module):
    """prefill, decode and image_logits serve; `logits` is the whole in one uncached pass; `states` serves training."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.text_table = nn.Embedding(config.text_vocab, config.dim)
        self.places = nn.Parameter(torch.randn(config.steps + 1, config.dim) * 0.5)
        self.caption_in = Linear(config.dim, config.dim)
        self.group_in = Linear(config.group * config.code_dim, config.dim, bias=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6, bias=False)
        self.local = Local(config)
        nn.init.normal_(self.text_table.weight, std=0.02)
        self.through = through  # training may put a compiled one here
        self._rotations: dict[torch.device, Rotation] = {}

    @property
    def layers(self) -> list[Block]:
        """The body's blocks, first to last."""
        return cast("list[Block]", list(self.blocks))

    # What follows is shared by training and serving.

    def rotations(self, device: torch.device) -> Rotation:
        """The table of `rotation_table` on `device`."""
        if device not in self._rotations:
            with torch.inference_mode(False):  # a model that has served can still be trained
                table = rotation_table(self.config)
                self._rotations[device] = Rotation(table.cos.to(device), table.sin.to(device))
        return self._rotations[device]

    def caption(self, text_ids: Tensor, lengths: Tensor) -> Tensor:
        """The prompt's mean token vector, mixed: text_ids (b, t), lengths (b,) with <bos> and <eot> -> (b, dim).

        Of unit size, as all that is added up at an image position has to be: left alone it grows until nothing else
        of the input is seen beside it. Linear: behind a ReLU all prompts' vectors come to point the same way.
        """
        place = torch.arange(text_ids.shape[1], device=text_ids.device)
        inside = ((place >= 1) & (place < lengths[:, None] - 1)).to(self.text_table.weight.dtype)
        total = (self.text_table(text_ids) * inside.unsqueeze(-1)).sum(1)
        mean = total / inside.sum(1, keepdim=True).clamp_min(1)
        mean = F.layer_norm(mean, (self.config.dim,), eps=1e-6) * (lengths > 2).unsqueeze(-1).to(mean.dtype)
        return F.layer_norm(self.caption_in(mean), (self.config.dim,), eps=1e-6)

    def embed(self, text_ids: Tensor, lengths: Tensor, caption: Tensor) -> Tensor:
        """Text positions' inputs (b, t, dim): <eot> is also the place that predicts the first group."""
        x = F.layer_norm(self.text_table(text_ids), (self.config.dim,), eps=1e-6)
        start = F.one_hot(lengths - 1, text_ids.shape[1]).to(x.dtype).unsqueeze(-1)  # (b, t, 1)
        return x + start * (self.places[0] + caption).unsqueeze(1)

    def embed_groups(self, codes: Tensor, places: Tensor, caption: Tensor) -> Tensor:
        """Inputs of image positions: codes (b, n, group * code_dim) just drawn, places (b | 1, n, dim) they predict."""
        x = F.layer_norm(self.group_in(codes), (self.config.dim,), eps=1e-6)
        return x + places + caption.unsqueeze(1)

    def states(
        self, text_ids: Tensor, lengths: Tensor, image_ids: Tensor, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The uncached pass over whole sequences.

        text_ids (b, t) padded on the right, lengths (b,), image_ids (b, grid * grid). seen (b, grid * grid), where
        given, is 0 at image tokens that are withheld as inputs. Returns the body's normalised output at the text
        positions (b, t, dim), at the positions that predict groups (b, steps, dim), and the code vectors
        (b, grid, grid, code_dim).
        """
        config = self.config
        b, t = text_ids.shape
        embedded = F.embedding(image_ids, self.local.codes())  # (b, image tokens, code_dim)
        if seen is not None:
            embedded = embedded * seen.unsqueeze(-1).to(embedded.dtype)
        groups = rearrange(embedded, "b (s g) d -> b s (g d)", g=config.group)[:, :-1]
        caption = self.caption(text_ids, lengths)
        x = torch.cat(
            [
                self.embed(text_ids, lengths, caption),
                self.embed_groups(groups, self.places[1 : config.steps].unsqueeze(0), caption),
            ],
            dim=1,
        )
        table = self.rotations(x.device)
        start = config.max_text + 1
        rotation = Rotation(*(torch.cat([part[:t], part[start : start + config.steps - 1]]) for part in table))
        x = self._uncached(x, t, lengths, rotation)
        first = x[torch.arange(b, device=x.device), lengths - 1].unsqueeze(1)  # <eot>
        grid = rearrange(embedded, "b (h w) d -> b h w d", h=config.grid)
        return x[:, :t], torch.cat([first, x[:, t:]], dim=1), grid

    def glimpses(self, text_ids: Tensor, lengths: Tensor, steps: Tensor) -> Tensor:
        """What the words alone say of a few groups of a picture; all image tokens are withheld as inputs.

        text_ids (b, t) padded on the right, lengths (b,); steps (b, k): groups, ascending, 1 to `steps` - 1. Returns
        where the local network starts, (b, k * group, local_dim). A text costs t + k positions instead of t + 255.
        """
        t = text_ids.shape[1]
        caption = self.caption(text_ids, lengths)
        x = torch.cat([self.embed(text_ids, lengths, caption), self.places[steps] + caption.unsqueeze(1)], dim=1)
        table = self.rotations(x.device)
        rotation = Rotation(
            *(
                torch.cat([part[:t].expand(len(steps), -1, -1), part[self.config.max_text + steps]], dim=1).unsqueeze(1)
                for part in table
            )
        )
        predicting = self._uncached(x, t, lengths, rotation)[:, t:]
        return rearrange(self.local.from_body(predicting), "b s (g d) -> b (s g) d", g=self.config.group)

    def _uncached(self, x: Tensor, t: int, lengths: Tensor, rotation: Rotation) -> Tensor:
        """All blocks over x (b, t text positions and more, dim), normalised; text from `lengths` on is never seen."""
        place = torch.arange(x.shape[1], device=x.device)
        exists = (place < lengths[:, None]) | (place >= t)  # (b, n)
        mask = ((place[:, None] >= place) & exists[:, None, :]).unsqueeze(1)  # (b, 1, n, n)
        for block in self.layers:
            x = self.through(block, x, rotation, mask)
        out: Tensor = self.norm(x)
        return out

    def local_inputs(self, predicting: Tensor, grid: Tensor) -> Tensor:
        """(b, steps, dim), (b, grid, grid, code_dim) -> where the local network starts, (b, grid * grid, local_dim)."""
        left, above = self.local.neighbours(grid)
        body = rearrange(self.local.from_body(predicting), "b s (g d) -> b (s g) d", g=self.config.group)
        near = self.local.from_left(left) + self.local.from_above(above)
        return body + rearrange(near, "b h w d -> b (h w) d")

    @torch.inference_mode()
    def logits(self, text_ids: Tensor, image_ids: Tensor) -> Tensor:
        """Uncached logits of what follows every position.

        text_ids (b, t) int64, all of one length, <bos> first and <eot> last; image_ids (b, k) int64 with k up to 1024,
        in raster order. Returns (b, t + k, text_vocab + image_vocab) float32: text ids first, then image ids; -inf in
        the block that cannot follow. What stands at position i predicts what stands at i + 1. Nothing follows the last
        image token: with k = 1024 the last position is all -inf. Raises ValueError for shapes and ids out of range.
        """
        config = self.config
        (b, t), k = text_ids.shape, image_ids.shape[1]
        if not 2 <= t <= config.max_text or k > config.image_tokens or image_ids.shape[0] != b:
            raise ValueError(
                f"text_ids {tuple(text_ids.shape)} and image_ids {tuple(image_ids.shape)} found; text of 2 to "
                f"{config.max_text} ids, and up to {config.image_tokens} image ids for as many rows are read"
            )
        for name, ids, limit in (
            ("text_ids", text_ids, config.text_vocab),
            ("image_ids", image_ids, config.image_vocab),
        ):
            if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < limit):
                raise ValueError(f"{name}: {int(ids.min())} to {int(ids.max())} found, and 0 to {limit - 1} are known")
        padded = F.pad(image_ids, (0, config.image_tokens - k))
        lengths = torch.full((b,), t, device=text_ids.device)
        text, predicting, grid = self.states(text_ids, lengths, padded)
        out = text.new_full((b, t + k, config.text_vocab + config.image_vocab), float("-inf"), dtype=torch.float32)
        out[:, : t - 1, : config.text_vocab] = self.text_logits(text[:, :-1])
        wanted = min(k + 1, config.image_tokens)
        image = self.local.logits(self.local_inputs(predicting, grid)[:, :wanted])
        out[:, t - 1 : t - 1 + wanted, config.text_vocab :] = image
        return out

    def text_logits(self, states: Tensor) -> Tensor:
        """(..., dim) normalised -> (..., text_vocab) float32; the table is shared with the input."""
        return F.linear(states, self.text_table.weight).float()

    @torch.inference_mode()
    def read_text(self, text_ids: Tensor, past: TextState | None = None) -> tuple[Tensor, TextState]:
        """What may follow a text that is not at its end: logits (b, text_vocab) float32 of the next id.

        text_ids (b, n) int64, <bos> first and no <eot>; with `past`, what an earlier call returned, only the ids since
        then. The same logits as those that `logits` gives at the last of these ids.
        """
        n, before = text_ids.shape[1], past[0][0].shape[2] if past else 0
        x = F.layer_norm(self.text_table(text_ids), (self.config.dim,), eps=1e-6)
        table = self.rotations(x.device)
        rotation = Rotation(table.cos[before : before + n], table.sin[before : before + n])
        mask = torch.ones(n, before + n, dtype=torch.bool, device=x.device).tril(before)[None, None]
        state: TextState = []
        for i, block in enumerate(self.layers):
            found, k, v = block.attention(block.norm1(x), rotation, mask, past[i] if past else None)
            state.append((k, v))
            x = block.feed_forward(x + found)
        return self.text_logits(self.norm(x[:, -1])), state

    # What follows serves.

    def pack(self) -> None:
        """Keep the weights once more, packed for the CPU (`linear`), until they change.

        On other devices, in other types and for models of more than 1 GiB, which would not fit twice, nothing is done.
        """
        if sum(p.numel() * p.element_size() for p in self.parameters()) <= _PACKED_AT_MOST:
            for module in self.modules():
                if isinstance(module, Linear | Local):
                    module.pack()

    def new_cache(self, slots: int, dtype: torch.dtype | None = None) -> KVCache:
        """A cache of `slots` sequences on the model's device, in `dtype` or the model's own."""
        weight = self.text_table.weight
        return KVCache(self.config, slots, weight.device, dtype or weight.dtype)

    @torch.inference_mode()
    def prefill(self, cache: KVCache, slots: Tensor, text_ids: Tensor) -> Tensor:
        """Read prompts of one length: slots (rows,), text_ids (rows, t). Returns hidden (rows, group * local_dim).

        Afterwards these slots hold t positions and no image token.
        """
        rows, t = text_ids.shape
        lengths = torch.full((rows,), t, device=text_ids.device)
        caption = self.caption(text_ids, lengths)
        x = self.embed(text_ids, lengths, caption)
        table = self.rotations(x.device)
        rotation = Rotation(table.cos[:t], table.sin[:t])
        for i, block in enumerate(self.layers):
            found, k, v = block.attention(block.norm1(x), rotation, None)
            cache.k[i, slots, :, :t] = k.to(cache.k.dtype)
            cache.v[i, slots, :, :t] = v.to(cache.v.dtype)
            x = block.feed_forward(x + found)
        cache.length[slots] = t
        cache.step[slots] = 0
        cache.tokens[slots] = 0
        cache.caption[slots] = caption.to(cache.caption.dtype)
        step = torch.zeros(rows, device=x.device, dtype=torch.int64)
        return self._hidden(self.norm(x[:, -1]), cache.tokens[slots], step)

    @torch.inference_mode()
    def decode(self, cache: KVCache, slots: Tensor | slice, tokens: Tensor, span: int | None = None) -> Tensor:
        """Feed the group just drawn, tokens (rows, group); returns hidden (rows, group * local_dim) for the next group.

        slots: (rows,) ids, or a slice, which reads the cache in place. span: cached positions to read, at least the
        longest row's length + 1; the whole capacity when not given. A row's result depends on span only by rounding.
        Feed no more than steps - 1 groups: nothing follows the last.
        """
        span = cache.capacity if span is None else span
        config = self.config
        place, step = cache.length[slots], cache.step[slots] + 1
        rows = torch.arange(place.shape[0], device=place.device)
        history = cache.tokens[slots]
        fed = (step - 1).unsqueeze(1) * config.group + torch.arange(config.group, device=place.device)
        history[rows.unsqueeze(1), fed] = tokens
        codes = F.embedding(tokens, self.local.codes()).flatten(1).unsqueeze(1)
        x = self.embed_groups(codes, self.places[step].unsqueeze(1), cache.caption[slots].to(codes.dtype))
        table = self.rotations(x.device)
        at = config.max_text + step
        rotation = Rotation(table.cos[at, None, None], table.sin[at, None, None])  # (rows, 1, 1, head_dim)
        exists = torch.arange(span, device=x.device) <= place.unsqueeze(1)
        bias = torch.zeros(exists.shape, device=x.device, dtype=x.dtype).masked_fill_(~exists, float("-inf"))[
            :, None, None
        ]
        for i, block in enumerate(self.layers):
            keys, values = cache.k[i, slots], cache.v[i, slots]  # views for a slice, copies for ids
            found = block.attention.decode(
                block.norm1(x), rotation, keys[:, :, :span], values[:, :, :span], bias, place
            )
            if not isinstance(slots, slice):
                cache.k[i, slots, :, place] = keys[rows, :, place]
                cache.v[i, slots, :, place] = values[rows, :, place]
            x = block.feed_forward(x + found)
        cache.tokens[slots] = history
        cache.length[slots] = place + 1
        cache.step[slots] = step
        return self._hidden(self.norm(x[:, 0]), history, step)

    def _hidden(self, predicting: Tensor, history: Tensor, step: Tensor) -> Tensor:
        """Body output (rows, dim), tokens so far (rows, image_tokens), the group (rows,) -> (rows, group * local_dim).

        Everything the local network knows before the group's first token: the body's word, the row above, and the
        tokens to the left that are not of this group.
        """
        config, local = self.config, self.local
        rows = torch.arange(step.shape[0], device=step.device).unsqueeze(1)
        first = step.unsqueeze(1) * config.group  # raster index of the group's first token
        column = first % config.grid
        table = local.codes()

        def vectors(offsets: Tensor, columns: Tensor) -> Tensor:
            index = first + offsets
            inside = (columns >= 0) & (columns < config.grid) & (index >= 0)
            found = F.embedding(history[rows, index.clamp(0, config.image_tokens - 1)], table)
            return found * inside.unsqueeze(-1).to(found.dtype)  # (rows, offsets, code_dim)

        wide = torch.arange(-ABOVE, config.group + ABOVE, device=step.device)
        above = vectors(wide - config.grid, column + wide).unfold(
            1, 2 * ABOVE + 1, 1
        )  # (rows, group, code_dim, window)
        before = torch.arange(-LEFT, 0, device=step.device)
        left = F.pad(vectors(before, column + before), (0, 0, 0, config.group - 1)).unfold(1, LEFT, 1)
        near = local.from_above(above.mT.flatten(2)) + local.from_left(left.mT.flatten(2))  # (rows, group, local_dim)
        return local.from_body(predicting) + near.flatten(1)

    @torch.inference_mode()
    def image_logits(self, hidden: Tensor, drawn: Tensor) -> Tensor:
        """Logits of the group's next token: hidden (rows, group * local_dim), drawn (rows, j) its j earlier tokens.

        Returns (rows, image_vocab) float32. j is 0 to group - 1.
        """
        config, local = self.config, self.local
        j = drawn.shape[1]
        x = hidden.view(-1, config.group, config.local_dim)[:, j]
        if seen := min(j, LEFT):
            codes = F.embedding(drawn[:, j - seen :], local.codes()).flatten(1)
            x = x + local.from_left(F.pad(codes, ((LEFT - seen) * config.code_dim, 0)))
        return local.logits(x)
