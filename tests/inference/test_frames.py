"""Frames by another process: the newest of each picture, one at a time, and none that nobody wants any more."""

from __future__ import annotations

import logging
import multiprocessing
import threading
from multiprocessing.connection import Connection

import numpy as np
import pytest
import torch

from model.checkpoints import Checkpoint
from model.inference.engine import Engine
from model.inference.events import Painted, Partial
from model.inference.frames import Frame, OwnFrames, ProcessFrames, beside
from model.inference.image_codec import ImageCodec
from model.inference.requests import GenerationRequest, SamplingParams
from tests.inference.conftest import CELLS, GRID, SIZE
from tests.inference.test_engine import run


def frame(request_id: str = "a", index: int = 0, rows: int = 1) -> Frame:
    tokens = np.arange(CELLS, dtype="<i2")
    return Frame(request_id, index, rows, tokens.tobytes(), (np.arange(CELLS) < rows * GRID).tobytes())


def request(small: Checkpoint, rows: tuple[int, ...]) -> GenerationRequest:
    text_ids = tuple(small.tokenizer.encode("a red apple"))
    return GenerationRequest("a", text_ids, 1, SamplingParams(seed=1), partial_rows=rows)


def answer(theirs: Connection, seconds: float = 0.0) -> tuple[Frame, list[tuple[str, int]]]:
    """Paint what was sent, as the process does in so many seconds, but for the picture. Returns what was sent."""
    sent, forgotten = theirs.recv()
    theirs.send((Partial(sent.request_id, sent.index, sent.rows_done, b""), seconds))
    return sent, forgotten


def test_a_late_frame_gives_way_to_a_newer_one_of_its_picture() -> None:
    ours, theirs = multiprocessing.Pipe()
    frames = ProcessFrames(ours)
    for rows in (1, 2, 3):
        frames.ask(frame(rows=rows))
        frames.ask(frame(index=1, rows=rows))
    assert frames.take() == []
    assert answer(theirs)[0].rows_done == 1
    assert [(e.index, e.rows_done) for e in frames.take()] == [(0, 1)]
    # The other picture has waited longer.
    assert (answer(theirs)[0].index, frames.take()[0].rows_done) == (1, 3)
    assert answer(theirs)[0].rows_done == 3
    assert [(e.index, e.rows_done) for e in frames.take()] == [(0, 3)]
    assert not theirs.poll()


def test_after_a_frame_no_other_is_painted_for_a_while() -> None:
    ours, theirs = multiprocessing.Pipe()
    frames = ProcessFrames(ours)
    frames.ask(frame())
    answer(theirs, seconds=1000.0)
    assert len(frames.take()) == 1
    frames.ask(frame(rows=2))
    assert frames.take() == []
    assert not theirs.poll()


def test_a_picture_that_is_finished_has_no_frames_any_more() -> None:
    ours, theirs = multiprocessing.Pipe()
    frames = ProcessFrames(ours)
    frames.ask(frame("a"))
    frames.ask(frame("a", 1))
    frames.ask(frame("b", 7))
    frames.forget("a")
    answer(theirs)
    assert frames.take() == []
    sent, forgotten = answer(theirs)
    assert (sent.picture, forgotten) == (("b", 7), [("a", 0)])
    assert [e.request_id for e in frames.take()] == ["b"]


def test_pictures_are_finished_when_the_process_has_died(
    small: Checkpoint,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with caplog.at_level(logging.ERROR):
        events = run(Engine(small, slots=2, frames=ProcessFrames(ours)), [request(small, (1, 2, 3))])
    assert [type(e) for e in events if isinstance(e, Painted | Partial)] == [Painted]
    assert len(caplog.records) == 1


def test_a_thread_paints_what_the_engine_would(small: Checkpoint) -> None:
    before = set(threading.enumerate())
    frames, own = beside(small.vae, torch.device("cpu")), OwnFrames(ImageCodec(small.vae, torch.device("cpu")))
    (thread,) = set(threading.enumerate()) - before
    for rows in (1, 4, 5):
        frames.ask(frame(rows=rows))
        own.ask(frame(rows=rows))
        while not (painted := frames.take()):
            frames._connection.poll(0.01)  # it may still rest
        assert painted == own.take()
        assert len(painted[0].rgb) == SIZE * SIZE * 3
    frames._connection.close()
    thread.join()


def test_a_frame_that_cannot_be_painted_is_left_out(
    small: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(small, slots=2)

    def fail(_ids: torch.Tensor) -> None:
        raise RuntimeError("no such picture")

    monkeypatch.setattr(engine.image_codec, "paint", fail)
    events = run(engine, [request(small, (1, 2))])
    assert [type(e) for e in events if isinstance(e, Painted | Partial)] == [Painted]
