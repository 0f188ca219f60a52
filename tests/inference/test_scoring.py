"""best_of by the checkpoint's CLIP: the pictures stay the same, the scores are its cosines, the best come first."""

from __future__ import annotations

import dataclasses
import struct

import pytest
import torch
from PIL import Image

from model.checkpoints import Checkpoint
from model.clip import Clip
from model.config import ClipConfig, from_preset
from model.errors import CheckpointError, InvalidRequest
from model.inference.engine import Engine
from model.inference.events import Painted
from model.inference.requests import GenerationRequest, SamplingParams
from model.inference.scoring import Scorer
from model.painter import Painter
from tests.conftest import randomise
from tests.inference.conftest import CELLS, GRID, LEVELS, SIZE

PROMPT = "a red apple"


@pytest.fixture(scope="module")
def judged(small: Checkpoint) -> Checkpoint:
    """The small checkpoint with a CLIP of random weights."""
    clip = Clip(from_preset(ClipConfig, "tiny", text_vocab=300, grid=GRID, levels=LEVELS))
    randomise(clip, seed=6)
    return dataclasses.replace(small, config=dataclasses.replace(small.config, clip=clip.config), clip=clip.eval())


@pytest.fixture(scope="module")
def painter(judged: Checkpoint) -> Painter:
    return Painter(judged, slots=4)


def paint(checkpoint: Checkpoint, *requests: GenerationRequest) -> dict[tuple[str, int], Painted]:
    engine = Engine(checkpoint, slots=4)
    for request in requests:
        engine.add(request)
    found = {}
    while engine.has_work:
        found.update({(e.request_id, e.index): e for e in engine.step() if isinstance(e, Painted)})
    return found


def request(checkpoint: Checkpoint, name: str, prompt: str = PROMPT, **more: object) -> GenerationRequest:
    ids = tuple(checkpoint.tokenizer.encode(prompt))
    return GenerationRequest(name, ids, 2, SamplingParams(seed=1, guidance=2.0), score=True, **more)  # type: ignore[arg-type]


def test_scores_are_the_cosines_and_change_no_picture(small: Checkpoint, judged: Checkpoint) -> None:
    assert judged.clip is not None
    found = paint(judged, request(judged, "a"), request(judged, "b", "a blue circle"))
    by_likelihood = paint(small, request(small, "a"))
    text = judged.clip.encode_text(torch.tensor([judged.tokenizer.encode(PROMPT)]))[0].detach()
    for index in range(2):
        picture = found["a", index]
        assert (picture.tokens, picture.rgb) == (by_likelihood["a", index].tokens, by_likelihood["a", index].rgb)
        assert picture.score != by_likelihood["a", index].score
        tokens = torch.tensor(struct.unpack(f"<{CELLS}h", picture.tokens))
        image = judged.clip.encode_image(tokens[None])[0].detach()
        assert picture.score == pytest.approx(float(image @ text), abs=1e-6)
    assert found["a", 0].score != found["b", 0].score


def test_a_score_is_the_same_alone_and_in_a_crowd(judged: Checkpoint) -> None:
    alone = paint(judged, request(judged, "a", first_index=1))
    crowd = paint(judged, *(request(judged, name) for name in "xyza"))
    assert alone["a", 1].score == crowd["a", 1].score


def test_the_best_come_first_with_their_scores(painter: Painter) -> None:
    everything = painter.generate(PROMPT, n=5, seed=3, best_of=5)
    scores = [picture.info["score"] for picture in everything]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 5
    assert sorted(picture.info["index"] for picture in everything) == [0, 1, 2, 3, 4]
    chosen = painter.generate(PROMPT, n=2, seed=3, best_of=5)
    assert [picture.tobytes() for picture in chosen] == [picture.tobytes() for picture in everything[:2]]
    plain = painter.generate(PROMPT, n=5, seed=3)
    assert plain[everything[0].info["index"]].tobytes() == everything[0].tobytes()
    assert "score" not in plain[0].info


def test_without_a_clip_the_best_are_chosen_by_likelihood(small: Checkpoint) -> None:
    painter = Painter(small, slots=4)
    (best,) = painter.generate(PROMPT, seed=3, best_of=4)
    ids = tuple(small.tokenizer.encode(PROMPT))
    everything = painter.paint([GenerationRequest("0", ids, 4, painter.sampling(seed=3), score=True)])
    assert best.info["score"] == max(picture.info["score"] for picture in everything)
    with pytest.raises(CheckpointError, match="small: has no CLIP; `dalle-server train clip` trains one"):
        painter.clip  # noqa: B018


@pytest.mark.parametrize(("n", "best_of"), [(3, 2), (1, 0), (1, 65), (2, -1)])
def test_a_best_of_that_cannot_be_honoured_is_named(painter: Painter, n: int, best_of: int) -> None:
    with pytest.raises(
        InvalidRequest, match=f"^best_of must be an integer from n, which is {n}, to 64, got {best_of}$"
    ):
        painter.generate(PROMPT, n=n, best_of=best_of)


def test_pictures_and_their_tokens_are_scored_alike(painter: Painter) -> None:
    pictures = painter.generate(PROMPT, n=3, seed=1)
    tokens = torch.cat([painter.vae.encode(pixels(picture)) for picture in pictures])  # (3, GRID, GRID)
    scores = painter.clip.score(pictures, PROMPT)
    assert len(scores) == len(set(scores)) == 3
    assert scores == painter.clip.score(tokens, PROMPT) == painter.clip.score(tokens.flatten(1), PROMPT)
    assert scores[1:2] == painter.clip.score(pictures[1:2], PROMPT)
    assert scores != painter.clip.score(pictures, "a blue circle")
    assert painter.clip.score([], PROMPT) == []


def pixels(picture: Image.Image) -> torch.Tensor:
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(1, SIZE, SIZE, 3).permute(0, 3, 1, 2).float() / 255


def test_pictures_of_another_size_are_refused(painter: Painter) -> None:
    with pytest.raises(InvalidRequest, match="^pictures must have 64 x 64 pixels, got 32 x 64$"):
        painter.clip.score([Image.new("RGB", (32, 64))], PROMPT)
    with pytest.raises(InvalidRequest, match=r"^pictures must have 64 tokens each, got \(1, 1024\)$"):
        painter.clip.score(torch.zeros(1, 1024, dtype=torch.int64), PROMPT)


def test_a_long_prompt_is_cut_for_scoring(judged: Checkpoint) -> None:
    scorer = Scorer(judged, torch.device("cpu"))
    assert len(scorer.score(torch.zeros(1, CELLS, dtype=torch.int64), "a cat " * 300)) == 1
