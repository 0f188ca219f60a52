"""`draw`: one token for each image from its logits, as `model.inference.sampling` says, without a sort.

In this order: guidance, temperature, softmax, top-k, top-p, the inverse of the cumulated probabilities at the given
noise, the forced token, and what a drawn token changes in its slot. A program draws for one image.

A probability is never negative, so its bits order it like an integer. Top-k looks for the k-th largest bit by bit, two
bits at a time, and counts. Top-p looks for the least probability of the set in the same way, and adds up.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.kernels.gpu.kernels import told
from model.kernels.gpu.table import Column

IMAGE = tl.constexpr(int(Column.IMAGE))
NULL = tl.constexpr(int(Column.NULL))
GUIDANCE = tl.constexpr(int(Column.GUIDANCE))
TEMPERATURE = tl.constexpr(int(Column.TEMPERATURE))
OPENING = tl.constexpr(int(Column.OPENING))
GREEDY = tl.constexpr(int(Column.GREEDY))
TOP_K = tl.constexpr(int(Column.TOP_K))
TOP_P = tl.constexpr(int(Column.TOP_P))
SCORED = tl.constexpr(int(Column.SCORED))
EDGE = tl.constexpr(2)  # as in model.inference.decoder


@triton.jit
def first_of_level(bits, cut, count):
    """Where the bits are above `cut`, and the first `count` places where they equal it."""
    level = bits == cut
    return (bits > cut) | (level & (tl.cumsum(level.to(tl.int32), 0) <= count))


@triton.jit
def most_likely(p, k):
    """p, 0 but at its k largest; among equals the first are kept."""
    bits = p.to(tl.int32, bitcast=True)
    cut = tl.full((), 0, tl.int32)
    one = tl.full((), 1 << 28, tl.int32)
    for _ in range(15):  # 30 bits: p is at most 1. Three counts, of 16 bits each, are made in one sum.
        at_least = (bits >= cut + one).to(tl.int64)
        at_least += (bits >= cut + 2 * one).to(tl.int64) << 20
        at_least += (bits >= cut + 3 * one).to(tl.int64) << 40
        counts = tl.sum(at_least, 0)
        up = ((counts & 0xFFFFF) >= k).to(tl.int32)
        up += (((counts >> 20) & 0xFFFFF) >= k).to(tl.int32)
        up += ((counts >> 40) >= k).to(tl.int32)
        cut += up * one
        one = one >> 2
    room = k - tl.sum((bits > cut).to(tl.int32), 0)
    return tl.where(first_of_level(bits, cut, room), p, 0.0)


@triton.jit
def nucleus(p, share):
    """p, 0 outside the smallest set of the largest ones that holds `share` of the whole, float64."""
    bits = p.to(tl.int32, bitcast=True)
    goal = tl.sum(p.to(tl.float64), 0) * share
    cut = tl.full((), 0, tl.int32)
    one = tl.full((), 1 << 29, tl.int32)
    for _ in range(30):
        mass = tl.sum(tl.where(bits >= cut + one, p, 0.0).to(tl.float64), 0)
        cut += tl.where(mass >= goal, one, 0)
        one = one >> 1
    above = tl.sum(tl.where(bits > cut, p, 0.0).to(tl.float64), 0)
    level = tl.max(tl.where(bits == cut, p, 0.0), 0).to(tl.float64)
    count = tl.maximum(tl.ceil((goal - above) / tl.maximum(level, 1e-300)), 1.0)
    return tl.where(first_of_level(bits, cut, count.to(tl.int32)), p, 0.0)


@triton.jit
def log_total(logits):
    """log of the sum of exp(logits)."""
    top = tl.max(logits, 0)
    return top + tl.log(tl.sum(tl.exp(logits - top), 0))


@triton.jit(do_not_specialize=["token_of_group"])
def draw(
    logits,  # (rows, vocab)
    noise,  # (slots, cells) float64
    forced,  # (slots, cells)
    tokens,  # changed: (slots, cells)
    drawn,  # changed: (slots, group)
    position,  # changed: (slots,), image tokens drawn; with the group's last token
    begun,  # changed: (slots,) uint8
    bad,  # changed: (slots,) uint8
    score,  # changed: (slots,) float64
    table,
    slots,
    cells,
    token_of_group,
    group: tl.constexpr,
    vocab: tl.constexpr,
    padded: tl.constexpr,
    side: tl.constexpr,
):
    """Draw one token of the group; see above."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.load(position + row) + token_of_group
    if (told(table, IMAGE, row, slots) > 0) & (at < cells):
        null = told(table, NULL, row, slots).to(tl.int64)
        v = tl.arange(0, padded)
        inside = v < vocab
        given = tl.load(logits + row * vocab + v, mask=inside, other=float("-inf"))
        mixed = given
        without = given
        if null != row:
            without = tl.load(logits + null * vocab + v, mask=inside, other=0.0)
            guidance = told(table, GUIDANCE, row, slots).to(tl.float32)
            mixed = tl.where(guidance == 1.0, given, without + guidance * (given - without))
        has_begun = tl.load(begun + row) > 0
        heat = tl.where(has_begun, told(table, TEMPERATURE, row, slots), told(table, OPENING, row, slots))
        scaled = mixed / heat.to(tl.float32)
        p = tl.exp(scaled - tl.max(scaled, 0))
        p = p / tl.sum(p, 0)
        k = told(table, TOP_K, row, slots).to(tl.int32)
        if k < vocab:
            p = most_likely(p, k)
        share = told(table, TOP_P, row, slots)
        if share < 1.0:
            p = nucleus(p, share)
        cumulated = tl.cumsum(p.to(tl.float64), 0)
        total = tl.max(cumulated, 0)
        goal = tl.load(noise + row * cells + at) * total
        token = tl.sum(((cumulated <= goal) & inside).to(tl.int32), 0)
        if told(table, GREEDY, row, slots) > 0:
            token = tl.argmax(mixed, 0).to(tl.int32)
        token = tl.minimum(token, vocab - 1).to(tl.int64)
        must = tl.load(forced + row * cells + at)
        if (told(table, SCORED, row, slots) > 0) & (must < 0):
            mine = tl.sum(tl.where(v == token, given, 0.0), 0) - log_total(given)
            nobody = tl.sum(tl.where(v == token, without, 0.0), 0)
            nobody -= log_total(tl.where(inside, without, float("-inf")))
            tl.store(score + row, tl.load(score + row) + (mine - nobody).to(tl.float64))
        token = tl.where(must >= 0, must, token)

        line = at // side
        column = at % side
        away = (column > EDGE) & (column < side - EDGE) & (line >= EDGE) & (line < side - EDGE)  # from the edges
        before = tl.load(tokens + row * cells + tl.maximum(at - 1, 0))
        tl.store(begun + row, (has_begun | (away & (token != before))).to(tl.uint8))
        tl.store(bad + row, ((tl.load(bad + row) > 0) | ((total > 0.0) == 0)).to(tl.uint8))  # NaN is not > 0
        tl.store(tokens + row * cells + at, token)
        tl.store(drawn + row * group + token_of_group, token)
        if token_of_group == group - 1:
            tl.store(position + row, at + 1)
