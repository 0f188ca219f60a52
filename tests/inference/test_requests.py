"""What a request becomes before it reaches the engine: defaults filled in, and failures as exceptions."""

from __future__ import annotations

import pickle

import pytest

from model.config import SamplingDefaults
from model.errors import DalleError, DeadlineExceeded, InvalidRequest, PaintingFailed
from model.inference.events import DEADLINE_EXCEEDED, INTERNAL_ERROR, INVALID_REQUEST, Failed
from model.inference.requests import SEED_BITS, GenerationRequest, SamplingParams

DEFAULTS = SamplingDefaults(temperature=0.0, top_k=7, top_p=0.9, guidance=3.0, opening=1.5)


def test_what_is_not_asked_for_is_the_checkpoints_default() -> None:
    assert SamplingParams.of(DEFAULTS, seed=1) == SamplingParams(1, 0.0, 7, 0.9, 3.0, 1.5)
    assert SamplingParams.of(DEFAULTS, 1, 0.5, 0, 1.0, 1.0, 0.25) == SamplingParams(1, 0.5, 0, 1.0, 1.0, 0.25)


@pytest.mark.parametrize(("temperature", "opening", "expected"), [(None, None, 1.5), (0.0, None, 0.0), (0.0, 0.5, 0.5)])
def test_the_default_opening_belongs_to_the_default_temperature(
    temperature: float | None, opening: float | None, expected: float
) -> None:
    assert SamplingParams.of(DEFAULTS, 1, temperature, opening=opening).opening == expected


def test_a_seed_is_drawn_where_none_is_given() -> None:
    seeds = {SamplingParams.of(DEFAULTS).seed for _ in range(20)}
    assert len(seeds) > 1
    assert all(0 <= seed < 2**SEED_BITS for seed in seeds)


def test_a_request_goes_through_a_pipe_with_its_deadline() -> None:
    request = GenerationRequest("a", (0, 5, 1), 2, SamplingParams(1), image=b"rgb", keep=b"\x01", deadline=12.5)
    assert pickle.loads(pickle.dumps(request)) == request


@pytest.mark.parametrize(
    ("code", "kind"),
    [(DEADLINE_EXCEEDED, DeadlineExceeded), (INVALID_REQUEST, InvalidRequest), (INTERNAL_ERROR, PaintingFailed)],
)
def test_a_failed_request_is_told_as_an_exception(code: str, kind: type[DalleError]) -> None:
    error = Failed("a", code, "what was wrong", "seed").error()
    assert type(error) is kind
    assert str(error) == "what was wrong"
    assert getattr(error, "field", "seed") == "seed"
    assert getattr(error, "code", code) == code
