"""Guessing ahead: the same pictures, and only where it pays."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from model.checkpoints import Checkpoint
from model.checkpoints.networks import network
from model.config import CheckpointConfig
from model.families.dalle_pytorch.config import DallePytorchConfig
from model.inference.ahead import AHEAD, MOST_PATIENCE, PATIENCE, TRIAL, Ahead
from model.inference.engine import Engine
from model.inference.events import Event, Painted, Progress
from model.inference.requests import GenerationRequest, SamplingParams
from model.kernels import step_of
from tests.conftest import randomise
from tests.inference.conftest import GRID


@pytest.fixture(scope="module")
def ordinary(small: Checkpoint) -> Checkpoint:
    """`small` with a transformer of DALLE-pytorch's shape."""
    sizes: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 2, "head_dim": 16, "attention": ("full", "axial_row")}
    config = DallePytorchConfig(300, 48, 512, GRID, **sizes, rotary=True, shift=True)
    transformer: Any = network(config).eval()
    randomise(transformer, seed=4)
    if step_of(transformer) is None:
        pytest.skip("the native kernels are not built here, or not for this processor")
    whole = CheckpointConfig(name="small", licence="MIT", vae=small.config.vae, transformer=config)
    return replace(small, config=whole, transformer=transformer)


def painted(checkpoint: Checkpoint, guidance: float, peaked: float) -> tuple[list[Event], int]:
    """The events of a picture, and the steps that it took."""
    engine, events, steps = Engine(checkpoint, slots=2), [], 0
    params = SamplingParams(seed=3, guidance=guidance, temperature=peaked, top_k=8)
    engine.add(GenerationRequest("one", tuple(engine.tokenizer.null), 1, params))
    while engine.has_work:
        events += engine.step()
        steps += 1
    return events, steps


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_picture_is_the_same_with_guesses(
    ordinary: Checkpoint, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ahead, "choose", lambda _: 0)
    plain, steps = painted(ordinary, guidance, 0.05)
    monkeypatch.setattr(Ahead, "choose", lambda _: AHEAD)
    guessed, fewer = painted(ordinary, guidance, 0.05)
    assert fewer < steps
    first, second = ([e for e in found if isinstance(e, Painted)] for found in (plain, guessed))
    assert first[0].tokens == second[0].tokens
    assert first[0].rgb == second[0].rgb
    rows = [[e.rows_done for e in found if isinstance(e, Progress)] for found in (plain, guessed)]
    assert rows[0][-1] == rows[1][-1] == (GRID,)


def simulated(seconds_plain: float, seconds_guessed: float, tokens: int, steps: int) -> list[int]:
    """What is chosen where steps take so long, and those with guesses make so many tokens."""
    ahead, chosen = Ahead(), []
    for _ in range(steps):
        chosen.append(ahead.choose())
        ahead.note(seconds_guessed if chosen[-1] else seconds_plain, tokens if chosen[-1] else 1)
    return chosen


def test_guesses_that_pay_go_on() -> None:
    chosen = simulated(1.0, 1.4, 2, 200)
    assert chosen[:PATIENCE] == [0] * PATIENCE
    assert chosen[PATIENCE:] == [AHEAD] * (200 - PATIENCE)


def test_guesses_that_do_not_pay_are_tried_ever_more_seldom() -> None:
    chosen = simulated(1.0, 1.4, 1, 20_000)
    trials = [i for i in range(1, len(chosen)) if chosen[i] and not chosen[i - 1]]
    assert all(chosen[i : i + TRIAL] == [AHEAD] * TRIAL for i in trials[:-1])
    gaps = [b - a - TRIAL for a, b in pairwise(trials)]
    assert gaps[:3] == [2 * PATIENCE, 4 * PATIENCE, 8 * PATIENCE]
    assert gaps[-1] == MOST_PATIENCE
