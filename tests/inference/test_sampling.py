"""The noise is Philox, the draw follows the distribution asked for, and no row feels another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from model.inference.requests import SamplingParams
from model.inference.sampling import RowParams, guide, philox4x32, sample, uniforms

CPU = torch.device("cpu")
DRAWS = 20_000


def params(**changes: float) -> SamplingParams:
    return SamplingParams(seed=0, **changes)  # type: ignore[arg-type]


def prepare(rows: list[SamplingParams], vocab: int) -> RowParams:
    return RowParams.prepare(rows, [i for i, p in enumerate(rows) if p.guidance != 1.0], vocab, CPU)


def noise(rows: int, seed: int = 7) -> Tensor:
    return torch.from_numpy(uniforms(seed, 0, rows))


def draw(logits: Tensor, how: SamplingParams, draws: int = DRAWS) -> Tensor:
    """`draws` tokens of one distribution: counts by token, (vocab,)."""
    vocab = len(logits)
    tokens, sound = sample(logits.expand(draws, vocab), prepare([how] * draws, vocab), noise(draws))
    assert bool(sound.all())
    return torch.bincount(tokens, minlength=vocab)


def expected(logits: Tensor, how: SamplingParams) -> Tensor:
    """The distribution by the definition, one token after another, in float64."""
    order = sorted(range(len(logits)), key=lambda i: (-float(logits[i]), i))
    p = torch.softmax(logits.double() / how.temperature, -1)
    kept = order[: how.top_k or len(order)]
    total, mass, nucleus = float(p[kept].sum()), 0.0, []
    for token in kept:
        nucleus.append(token)
        mass += float(p[token])
        if mass >= how.top_p * total and how.top_p < 1.0:
            break
    out = torch.zeros_like(p)
    out[nucleus] = p[nucleus]
    return out / out.sum()


# The known-answer vectors that Random123 publishes (kat_vectors, philox4x32 with 10 rounds).
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF, 0xFFFFFFFF), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], answer: tuple[int, int, int, int]
) -> None:
    c0, c1, c2, c3 = (np.array([word], dtype=np.uint64) for word in counter)
    assert tuple(int(word[0]) for word in philox4x32((c0, c1, c2, c3), key)) == answer


def test_noise_depends_on_seed_index_and_position_alone() -> None:
    whole = uniforms(5, 3, 64)
    assert np.array_equal(whole[10:20], uniforms(5, 3, np.arange(10, 20)))
    assert 0.0 < whole.min() < whole.max() < 1.0
    others = [uniforms(5, 4, 64), uniforms(6, 3, 64), uniforms(5 + 2**32, 3, 64), uniforms(2**63 - 1, 2**31, 64)]
    for other in others:
        assert not np.isclose(whole, other).any()


def test_noise_is_uniform() -> None:
    values = np.concatenate([uniforms(seed, index, 256) for seed in range(20) for index in range(10)])
    counts, _ = np.histogram(values, bins=64, range=(0.0, 1.0))
    mean = len(values) / 64
    chi_square = float(((counts - mean) ** 2 / mean).sum())
    assert chi_square < 103.4  # 0.999 quantile at 63 degrees of freedom


@pytest.mark.parametrize(
    "how",
    [
        params(),
        params(temperature=0.5),
        params(temperature=2.0),
        params(top_k=5),
        params(top_p=0.6),
        params(temperature=1.5, top_k=20, top_p=0.8),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(how: SamplingParams) -> None:
    logits = torch.randn(40, generator=torch.Generator().manual_seed(1)) * 2
    counts, p = draw(logits, how).double(), expected(logits, how)
    assert int(counts[p == 0.0].sum()) == 0
    bins = p > 0.0
    chi_square = float(((counts - DRAWS * p) ** 2 / (DRAWS * p))[bins].sum())
    freedom = int(bins.sum()) - 1
    # Wilson and Hilferty: the 0.999 quantile of chi-square is about f (1 - 2 / 9f + 3.09 sqrt(2 / 9f))**3.
    assert chi_square < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3


def test_top_k_keeps_exactly_k_among_equals() -> None:
    logits = torch.tensor([0.0, 1.0, 1.0, 1.0, -1.0, 1.0])
    assert draw(logits, params(top_k=2)).nonzero()[:, 0].tolist() == [1, 2]
    assert draw(torch.zeros(6), params(top_p=0.5)).nonzero()[:, 0].tolist() == [0, 1, 2]
    assert draw(logits, params(top_k=1)).nonzero()[:, 0].tolist() == [1]


def test_temperature_zero_takes_the_likeliest_and_a_tiny_one_does_not_overflow() -> None:
    logits = torch.tensor([[1.0, 300.0, 2.0], [1.0, 300.0, 2.0], [1.0, 300.0, 2.0]])
    rows = prepare([params(temperature=0.0), params(temperature=1e-300), params(temperature=1e-5, top_p=1e-9)], 3)
    tokens, sound = sample(logits, rows, noise(3))
    assert tokens.tolist() == [1, 1, 1]
    assert sound.tolist() == [True, True, True]
    only = prepare([params(temperature=0.0)], 3)
    assert sample(logits[:1], only, noise(1))[0].tolist() == [1]


def test_an_opening_is_at_least_the_temperature_until_something_is_drawn() -> None:
    logits = torch.linspace(0, 4, 12).expand(4000, 12)
    rows = prepare([params(temperature=0.3, opening=1.0)] * 4000, 12)
    blank, inked = torch.zeros(4000, dtype=torch.bool), torch.ones(4000, dtype=torch.bool)
    for begun, heat in ((blank, 1.0), (inked, 0.3), (None, 0.3)):
        expected_tokens, _ = sample(logits, prepare([params(temperature=heat)] * 4000, 12), noise(4000))
        found, _ = sample(logits, rows, noise(4000), begun)
        assert torch.equal(found, expected_tokens)
    warm = prepare([params(temperature=2.0, opening=1.0)], 12)
    assert not warm.any_opening
    assert warm.opening.item() == 2.0
    assert not prepare([params(temperature=0.5)], 12).any_opening


def test_a_row_does_not_feel_its_neighbours() -> None:
    vocab = 1003  # odd, so that rows are not aligned
    hows = [
        params(),
        params(top_k=7),
        params(temperature=0.0),
        params(top_p=0.9),
        params(temperature=1.3, top_k=300, top_p=0.7),
        params(top_k=vocab),
    ]
    logits = torch.randn(len(hows), vocab, generator=torch.Generator().manual_seed(2)) * 3
    for seed in range(50):
        u = noise(len(hows), seed)
        crowd, _ = sample(logits, prepare(hows, vocab), u)
        alone = [
            int(sample(logits[i : i + 1], prepare([how], vocab), u[i : i + 1])[0][0]) for i, how in enumerate(hows)
        ]
        assert crowd.tolist() == alone


def test_a_bad_row_is_told_apart_and_stays_inside_the_vocabulary() -> None:
    logits = torch.zeros(5, 8)
    logits[1] = float("nan")
    logits[2, 3] = float("inf")
    logits[3] = float("-inf")
    logits[4, 1:] = float("-inf")
    for how in (params(), params(top_k=3), params(top_p=0.5), params(temperature=0.0)):
        tokens, sound = sample(logits, prepare([how] * 5, 8), noise(5))
        assert sound.tolist() == [True, False, False, False, True]
        assert 0 <= int(tokens.min()) <= int(tokens.max()) < 8
        assert int(tokens[4]) == 0


def test_guidance_moves_only_the_guided_rows() -> None:
    rows = prepare([params(), params(guidance=3.0), params(guidance=0.0)], 4)
    conditional, null = torch.arange(12.0).view(3, 4), torch.ones(2, 4)
    out = guide(conditional, null, rows)
    assert torch.equal(out[0], conditional[0])
    assert torch.equal(out[1], 1 + 3 * (conditional[1] - 1))
    assert torch.equal(out[2], torch.ones(4))
    plain = prepare([params()], 4)
    assert guide(conditional[:1], null[:0], plain) is not None


def test_the_largest_number_below_one_draws_a_token_of_the_distribution() -> None:
    logits = torch.tensor([[0.0, 0.0, -200.0]])  # the last has no probability in float32
    top = torch.tensor([1.0 - 2.0**-33], dtype=torch.float64)
    assert sample(logits, prepare([params()], 3), top)[0].tolist() == [1]
