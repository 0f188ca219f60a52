"""The kernels of a step on a GPU, in Triton; `step` launches them. What each computes, in the order of a step:

    sample, for each token of a group:
        local_input  hidden + the group's earlier tokens -> x, norm(x)        a program for each row
        product      act(norm(x) W1); x += . W2 -- then norm, and the next block
        product      norm(x) Wcode; logits                                    ... tile of the result
        draw         see `sampling`                                           ... image

    decode:
        embed        the group just drawn, its place, the caption -> x, norm(x)  ... row
        product      norm(x) Wqkv
        attend       norm, rotation and gain of q and k; k and v into the cache; attention of one query a row over one
                     piece of its context                                     ... row, KV head and piece
        join         the pieces' attention, joined                            ... row and head
        product      x += . Wout -- then norm
        product      act(norm(x) W1); x += . W2 -- then norm, and the next layer
        product      norm(x) Wbody -> hidden
        near         hidden += the tokens above and to the left               ... row and token of the group

`x` is the residual stream, in float32. All else has the type of the weights, and sums are in float32.

A row is a slot. Rows that no image holds (`Column.HELD`) are left alone, and may hold anything. Every row is computed
as if it were alone: each of its sums has one order, which depends on that row's own length alone. The exception is
`product`, if more rows are given other tiles (`step.Tiles`).

A product of an embedding and a matrix is a table, made once (`weights`): then a sum of rows of tables is the product.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.kernels.gpu.table import Column

EPS = tl.constexpr(1e-6)
ABOVE = tl.constexpr(2)  # as in model.transformer.local
LEFT = tl.constexpr(3)
HELD = tl.constexpr(int(Column.HELD))
SOURCE = tl.constexpr(int(Column.SOURCE))


@triton.jit
def told(table, column: tl.constexpr, row, slots):
    """What the table says of a row, float64."""
    return tl.load(table + column * slots + row)


@triton.jit
def normalised(x, inside, size: tl.constexpr):
    """LayerNorm of x (padded,) float32, without a gain. inside (padded,): the first `size` elements."""
    mean = tl.sum(x, 0) / size
    centred = tl.where(inside, x - mean, 0.0)
    return centred / tl.sqrt(tl.sum(centred * centred, 0) / size + EPS)


@triton.jit
def embed(
    x,  # out: (slots, dim)
    normed,  # out: (slots, dim), norm(x)
    gain,  # (dim,), of that norm
    drawn,  # (slots, group)
    tokens,  # changed: (slots, cells), the image tokens fed
    step,  # changed: (slots,), groups fed
    length,  # changed: (slots,), positions filled
    caption,  # (slots, dim)
    places,  # (steps + 1, dim)
    tables,  # (group, vocab, dim)
    table,
    slots,
    steps,
    cells,
    vocab: tl.constexpr,
    group: tl.constexpr,
    dim: tl.constexpr,
    padded: tl.constexpr,
):
    """The input of the new position. The row has one position and one group more, for the kernels that follow."""
    row = tl.program_id(0)
    fed = tl.load(step + row)
    if (told(table, HELD, row, slots) > 0) & (fed + 1 < steps):
        source = told(table, SOURCE, row, slots).to(tl.int64)
        at = tl.arange(0, padded)
        inside = at < dim
        total = tl.zeros((padded,), tl.float32)
        for g in tl.static_range(group):
            token = tl.load(drawn + source * group + g)
            tl.store(tokens + row * cells + fed * group + g, token)
            total += tl.load(tables + (g * vocab + token) * dim + at, mask=inside, other=0.0).to(tl.float32)
        found = normalised(total, inside, dim)
        found += tl.load(places + (fed + 1) * dim + at, mask=inside, other=0.0).to(tl.float32)
        found += tl.load(caption + row * dim + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(x + row * dim + at, found, mask=inside)
        scaled = normalised(found, inside, dim) * tl.load(gain + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(normed + row * dim + at, scaled.to(normed.dtype.element_ty), mask=inside)
        tl.store(step + row, fed + 1)
        tl.store(length + row, tl.load(length + row) + 1)


@triton.jit
def norm(
    normed,  # out: (rows, dim)
    x,  # (rows, dim)
    gain,  # (dim,)
    dim: tl.constexpr,
    padded: tl.constexpr,
):
    """norm(x), a program for each row."""
    row = tl.program_id(0)
    at = tl.arange(0, padded)
    inside = at < dim
    found = normalised(tl.load(x + row * dim + at, mask=inside, other=0.0), inside, dim)
    found *= tl.load(gain + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row * dim + at, found.to(normed.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def product(
    y,  # out: (rows, outputs)
    x,  # (rows, inputs)
    weight,  # (outputs, inputs)
    bias,  # (outputs,) or None
    rows,
    inputs: tl.constexpr,
    outputs: tl.constexpr,
    adds: tl.constexpr,  # to what stands in y
    squares: tl.constexpr,  # squared ReLU
    precision: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_out: tl.constexpr,
    tile_in: tl.constexpr,  # divides `inputs`
):
    """y [+]= act(x weight^T + bias). A program for each tile of y."""
    out = tl.program_id(0) * tile_out + tl.arange(0, tile_out)
    row = tl.program_id(1) * tile_rows + tl.arange(0, tile_rows)
    ins = tl.arange(0, tile_in)
    is_row, is_out = row < rows, out < outputs
    xs = x + row[:, None] * inputs + ins[None, :]
    ws = weight + out[None, :] * inputs + ins[:, None]
    total = tl.zeros((tile_rows, tile_out), tl.float32)
    for first in range(0, inputs, tile_in):
        a = tl.load(xs + first, mask=is_row[:, None], other=0.0)
        w = tl.load(ws + first, mask=is_out[None, :], other=0.0)
        total = tl.dot(a, w, total, input_precision=precision)
    if bias is not None:
        total += tl.load(bias + out, mask=is_out, other=0.0).to(tl.float32)[None, :]
    if squares:
        total = tl.maximum(total, 0.0)
        total *= total
    ys = y + row[:, None] * outputs + out[None, :]
    mask = is_row[:, None] & is_out[None, :]
    if adds:
        total += tl.load(ys, mask=mask, other=0.0)
    tl.store(ys, total.to(y.dtype.element_ty), mask=mask)


@triton.jit
def attend(
    found,  # out: (slots, heads, pieces, head_dim) float32, not divided by `total`
    top,  # out: (slots, heads, pieces) float32, the largest score
    total,  # out: (slots, heads, pieces) float32, the sum of exp(score - top)
    qkv,  # (rows, (heads + 2 * kv_heads) * head_dim)
    gain,  # (heads,)
    cos,  # (positions, head_dim)
    sin,
    keys,  # changed: (slots, kv_heads, capacity, head_dim)
    values,
    length,  # (slots,), with the new position
    step,  # (slots,), with the group just fed
    table,
    slots,
    max_text,
    stride_slot,
    stride_head,
    scale,
    kv_heads: tl.constexpr,
    shared: tl.constexpr,  # query heads of a KV head
    padded: tl.constexpr,  # the same, as a product's tile wants it
    head_dim: tl.constexpr,
    piece: tl.constexpr,  # positions that a program looks at
    precision: tl.constexpr,
):
    """Attention over positions piece * z to piece * (z + 1) - 1 of a row, for the query heads of one KV head."""
    row, kv, z = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    place = tl.load(length + row) - 1
    if (told(table, HELD, row, slots) > 0) & (z * piece <= place):
        heads: tl.constexpr = kv_heads * shared
        kind = keys.dtype.element_ty
        d = tl.arange(0, head_dim)
        pair = (d + head_dim // 2) % head_dim  # the element that d turns with
        turn = (max_text + tl.load(step + row)) * head_dim + d
        turn_cos, turn_sin = tl.load(cos + turn), tl.load(sin + turn)
        mine = qkv + row * (heads + 2 * kv_heads) * head_dim

        head = kv * shared + tl.arange(0, padded)
        is_head = tl.arange(0, padded) < shared
        of_head = mine + head[:, None] * head_dim
        q = tl.load(of_head + d[None, :], mask=is_head[:, None], other=0.0).to(tl.float32)
        q_pair = tl.load(of_head + pair[None, :], mask=is_head[:, None], other=0.0).to(tl.float32)
        mean = tl.sum(q, 1)[:, None] / head_dim
        spread = tl.sqrt(tl.sum((q - mean) * (q - mean), 1) / head_dim + EPS)
        sharp = tl.load(gain + head, mask=is_head, other=0.0).to(tl.float32) * scale / spread
        q = ((q - mean) * turn_cos[None, :] + (q_pair - mean) * turn_sin[None, :]) * sharp[:, None]

        of_key = mine + (heads + kv) * head_dim
        k = tl.load(of_key + d).to(tl.float32)
        k_pair = tl.load(of_key + pair).to(tl.float32)
        k_mean = tl.sum(k, 0) / head_dim
        k_spread = tl.sqrt(tl.sum((k - k_mean) * (k - k_mean), 0) / head_dim + EPS)
        k = (((k - k_mean) * turn_cos + (k_pair - k_mean) * turn_sin) / k_spread).to(kind)
        v = tl.load(mine + (heads + kv_heads + kv) * head_dim + d).to(kind)

        at = z * piece + tl.arange(0, piece)
        context = row * stride_slot + kv * stride_head + at * head_dim
        known = at < place
        is_new = at == place
        ks = tl.load(keys + context[None, :] + d[:, None], mask=known[None, :], other=0.0)  # (head_dim, piece)
        vs = tl.load(values + context[:, None] + d[None, :], mask=known[:, None], other=0.0)  # (piece, head_dim)
        ks = tl.where(is_new[None, :], k[:, None], ks)
        vs = tl.where(is_new[:, None], v[None, :], vs)
        score = tl.dot(q.to(kind), ks, input_precision=precision)  # (padded, piece)
        score = tl.where((at <= place)[None, :], score, float("-inf"))
        largest = tl.max(score, 1)
        share = tl.exp(score - largest[:, None])
        sums = tl.dot(share.to(kind), vs, input_precision=precision)

        to = (row * heads + head) * tl.num_programs(2) + z
        tl.store(found + to[:, None] * head_dim + d[None, :], sums, mask=is_head[:, None])
        tl.store(top + to, largest, mask=is_head)
        tl.store(total + to, tl.sum(share, 1), mask=is_head)
        if place // piece == z:
            new = row * stride_slot + kv * stride_head + place * head_dim + d
            tl.store(keys + new, k)
            tl.store(values + new, v)


@triton.jit
def join(
    out,  # out: (rows, heads * head_dim)
    found,  # of `attend`
    top,
    total,
    length,
    table,
    slots,
    heads: tl.constexpr,
    head_dim: tl.constexpr,
    pieces: tl.constexpr,
    padded: tl.constexpr,  # pieces, as a power of two
    piece: tl.constexpr,
):
    """The attention of a row's head, from its pieces."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if told(table, HELD, row, slots) > 0:
        z = tl.arange(0, padded)
        d = tl.arange(0, head_dim)
        there = z * piece < tl.load(length + row)
        at = (row * heads + head) * pieces + z
        tops = tl.load(top + at, mask=there, other=float("-inf"))
        weight = tl.exp(tops - tl.max(tops, 0))
        sums = tl.load(found + at[:, None] * head_dim + d[None, :], mask=there[:, None], other=0.0)
        whole = tl.sum(tl.load(total + at, mask=there, other=0.0) * weight, 0)
        attended = tl.sum(sums * weight[:, None], 0) / whole
        tl.store(out + (row * heads + head) * head_dim + d, attended.to(out.dtype.element_ty))


@triton.jit
def near(
    hidden,  # changed: (slots, group, local_dim)
    tokens,  # (slots, cells), with the group just fed
    step,  # (slots,), with the group just fed
    above,  # (2 * ABOVE + 1, vocab, local_dim)
    left,  # (LEFT, vocab, local_dim)
    table,
    slots,
    cells,
    vocab: tl.constexpr,
    group: tl.constexpr,
    side: tl.constexpr,
    dim: tl.constexpr,
    padded: tl.constexpr,
):
    """Adds what stands above a token, and to its left before its group. Nothing stands outside the grid."""
    row, g = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if told(table, HELD, row, slots) > 0:
        at = tl.arange(0, padded)
        inside = at < dim
        cell = tl.load(step + row) * group + g
        column = cell % side
        here = hidden + (row * group + g) * dim + at
        total = tl.load(here, mask=inside, other=0.0).to(tl.float32)
        for i in tl.static_range(2 * ABOVE + 1):
            seen = cell - side + i - ABOVE
            there = (column + i >= ABOVE) & (column + i < side + ABOVE) & (seen >= 0)
            token = tl.load(tokens + row * cells + seen, mask=there, other=0)
            part = tl.load(above + (i * vocab + token) * dim + at, mask=inside, other=0.0)
            total += tl.where(there, part.to(tl.float32), 0.0)
        for i in tl.static_range(LEFT):
            there = (g + i < LEFT) & (column + i >= LEFT)
            token = tl.load(tokens + row * cells + cell + i - LEFT, mask=there, other=0)
            part = tl.load(left + (i * vocab + token) * dim + at, mask=inside, other=0.0)
            total += tl.where(there, part.to(tl.float32), 0.0)
        tl.store(here, total.to(hidden.dtype.element_ty), mask=inside)


@triton.jit
def local_input(
    x,  # out: (rows, local_dim)
    normed,  # out: (rows, local_dim), norm(x)
    gain,  # (local_dim,), of that norm
    hidden,  # (slots, group, local_dim)
    drawn,  # (slots, group)
    left,  # (LEFT, vocab, local_dim)
    table,
    slots,
    token_of_group: tl.constexpr,
    vocab: tl.constexpr,
    group: tl.constexpr,
    dim: tl.constexpr,
    padded: tl.constexpr,
):
    """Where the local network starts for one token of the group: the earlier ones are drawn."""
    row = tl.program_id(0).to(tl.int64)
    source = told(table, SOURCE, row, slots).to(tl.int64)
    at = tl.arange(0, padded)
    inside = at < dim
    total = tl.load(hidden + (row * group + token_of_group) * dim + at, mask=inside, other=0.0).to(tl.float32)
    for i in tl.static_range(LEFT):
        if token_of_group + i >= LEFT:
            token = tl.load(drawn + source * group + token_of_group + i - LEFT)
            total += tl.load(left + (i * vocab + token) * dim + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + row * dim + at, total, mask=inside)
    scaled = normalised(total, inside, dim) * tl.load(gain + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row * dim + at, scaled.to(normed.dtype.element_ty), mask=inside)
