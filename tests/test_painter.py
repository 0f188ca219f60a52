"""The public surface of `import model`: what a researcher's notebook relies on."""

from __future__ import annotations

import dataclasses
import inspect
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

import model
from model.errors import CheckpointError, DalleError, InvalidRequest, PromptTooLong
from model.inference.requests import GenerationRequest

PROMPT, SEED = "a red apple", 7


@pytest.fixture(scope="module")
def painter(tiny_checkpoint: Path) -> model.Painter:
    return model.load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def progress() -> list[tuple[int, int]]:
    """What `pictures` reported while it was painted."""
    return []


@pytest.fixture(scope="module")
def pictures(painter: model.Painter, progress: list[tuple[int, int]]) -> list[Image.Image]:
    return painter.generate(PROMPT, n=2, seed=SEED, on_progress=lambda done, total: progress.append((done, total)))


def test_the_surface() -> None:
    assert sorted(model.__all__) == ["Painter", "__version__", "load", "load_vae"]
    assert list(inspect.signature(model.load).parameters) == ["path", "device"]
    assert inspect.signature(model.load).parameters["path"].default == "weights/default"
    assert list(inspect.signature(model.Painter.generate).parameters)[1:] == [
        "prompt",
        "n",
        "seed",
        "temperature",
        "top_k",
        "top_p",
        "guidance",
        "truncate",
        "on_progress",
        "index",
        "forced",
        "best_of",
        "revise",
        "opening",
        "style",
        "on_unknown",
    ]
    with pytest.raises(AttributeError, match="has no attribute 'paint'"):
        model.paint  # noqa: B018  # type: ignore[attr-defined]


def test_importing_model_does_not_wait_for_torch() -> None:
    code = "import sys, model, model.config, model.errors; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pictures_are_plain_images_that_know_their_seed(pictures: list[Image.Image]) -> None:
    assert [image.info["index"] for image in pictures] == [0, 1]
    assert {image.info["seed"] for image in pictures} == {SEED}
    for image in pictures:
        assert isinstance(image, Image.Image)
        assert (image.mode, image.size) == ("RGB", (256, 256))
    assert pictures[0].tobytes() != pictures[1].tobytes()


def test_what_is_not_given_is_the_checkpoints_default(painter: model.Painter, pictures: list[Image.Image]) -> None:
    default = painter.checkpoint.config.sampling
    assert (default.temperature, default.top_k, default.guidance) == (0.9, 200, 2.0)
    named = painter.generate(PROMPT, n=1, seed=SEED, temperature=0.9, top_k=200, top_p=1.0, guidance=2.0, index=1)
    assert named[0].info["index"] == 1
    assert named[0].tobytes() == pictures[1].tobytes()  # and the number of pictures changes none of them
    assert painter.generate(PROMPT, seed=SEED, guidance=1.0)[0].tobytes() != pictures[0].tobytes()


def test_without_a_seed_one_is_drawn_and_told(painter: model.Painter, pictures: list[Image.Image]) -> None:
    first = painter.generate(PROMPT)[0]
    again = painter.generate(PROMPT, seed=first.info["seed"])[0]
    assert first.tobytes() == again.tobytes() != pictures[0].tobytes()


def test_prompts_are_painted_together_as_they_are_alone(painter: model.Painter, pictures: list[Image.Image]) -> None:
    each = painter.generate_each(["a cat", PROMPT, "a blue circle"], seed=SEED)
    assert len({image.tobytes() for image in each}) == 3
    assert each[1].tobytes() == pictures[0].tobytes()


def test_requests_of_their_own_parameters_are_painted_together(
    painter: model.Painter, pictures: list[Image.Image]
) -> None:
    cat, apple = (tuple(painter.tokenizer.encode(text)) for text in ("a cat", PROMPT))
    requests = [
        GenerationRequest("cat", cat, 1, painter.sampling(seed=3, temperature=0.5), score=True),
        GenerationRequest("apple", apple, 1, painter.sampling(seed=SEED), first_index=1),
    ]
    first, second = painter.paint(requests)
    assert (first.info["seed"], first.info["index"], second.info["index"]) == (3, 0, 1)
    assert math.isfinite(first.info["score"])
    assert "score" not in second.info
    assert second.info["seed"] == SEED
    assert second.tobytes() == pictures[1].tobytes()


@pytest.mark.usefixtures("pictures")
def test_progress_ends_at_the_total(progress: list[tuple[int, int]]) -> None:
    assert {total for _, total in progress} == {64}  # two pictures of 32 rows
    assert progress == sorted(progress)
    assert progress[-1][0] == 64


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"n": 0}, "n"),
        ({"n": 65}, "n"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": 8193}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"guidance": 21.0}, "guidance"),
    ],
)
def test_an_argument_out_of_range_is_named(painter: model.Painter, arguments: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field} must ") as caught:
        painter.generate("a cat", **arguments)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_a_long_prompt_is_refused_or_cut(painter: model.Painter) -> None:
    with pytest.raises(PromptTooLong):
        painter.generate("a cat " * 300)
    assert len(painter.generate("a cat " * 300, seed=1, truncate=True)) == 1


def test_texts_are_completed_the_same_way_by_the_same_seed(painter: model.Painter) -> None:
    texts = painter.complete("a red", n=3, seed=1)
    assert all(text.startswith("a red") for text in texts)
    assert len(set(texts)) > 1
    assert painter.complete("a red", n=2, seed=1) == texts[:2]
    assert painter.complete("a red", n=3, seed=2) != texts
    assert len(set(painter.complete("a red", n=3, seed=1, temperature=0.0))) == 1
    assert painter.complete("", seed=1) != [""]
    for name, value in (("n", 0), ("temperature", 6.0), ("top_k", -1), ("tokens", 0), ("tokens", 257), ("seed", -1)):
        with pytest.raises(InvalidRequest, match=f"^{name} must .*, got {value}"):
            painter.complete("a red", **{name: value})  # type: ignore[arg-type]
    with pytest.raises(PromptTooLong):
        painter.complete("a cat " * 300)


def test_an_interrupt_leaves_a_painter_that_paints(painter: model.Painter, pictures: list[Image.Image]) -> None:
    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        painter.generate("a cat", n=3, seed=5, on_progress=interrupt)
    assert painter.generate(PROMPT, seed=SEED)[0].tobytes() == pictures[0].tobytes()


def test_threads_may_share_a_painter(painter: model.Painter, pictures: list[Image.Image]) -> None:
    with ThreadPoolExecutor(2) as pool:
        shared = list(pool.map(lambda seed: painter.generate(PROMPT, seed=seed)[0], (SEED, SEED + 1)))
    assert shared[0].tobytes() == pictures[0].tobytes() != shared[1].tobytes()


def test_the_parts_are_there_for_a_researcher(painter: model.Painter) -> None:
    text = torch.tensor([painter.tokenizer.encode("a red apple")])
    assert painter.tokenizer.decode(text[0].tolist()) == "a red apple"
    pictures = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    ids = painter.vae.encode(pictures)
    assert (ids.shape, ids.dtype) == ((2, 32, 32), torch.int64)
    painted = painter.vae.decode(ids)
    assert (painted.shape, painted.dtype) == (pictures.shape, torch.float32)
    assert 0 <= float(painted.min()) <= float(painted.max()) <= 1

    image = ids[:1].flatten(1)[:, :40]
    logits = painter.transformer.logits(text, image)
    vocabulary = painter.transformer.config.text_vocab + painter.transformer.config.image_vocab
    assert (logits.shape, logits.dtype) == ((1, text.shape[1] + 40, vocabulary), torch.float32)


def test_a_model_that_gives_nan_is_an_error_and_no_picture(tiny_checkpoint: Path) -> None:
    broken = model.load(tiny_checkpoint, device="cpu")
    with torch.no_grad():
        next(broken.transformer.parameters()).fill_(math.nan)
    with pytest.raises(DalleError):
        broken.generate("a cat", seed=1)


def test_missing_weights_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        model.load(tmp_path / "nowhere")


def test_an_opening_is_the_checkpoints_where_no_temperature_is_named(tiny_checkpoint: Path) -> None:
    checkpoint = model.load(tiny_checkpoint, "cpu").checkpoint
    defaults = dataclasses.replace(checkpoint.config.sampling, opening=1.5)
    painter = model.Painter(
        dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, sampling=defaults))
    )
    assert painter.sampling().opening == 1.5
    assert painter.sampling(temperature=0.3).opening == 0.0
    assert painter.sampling(temperature=0.3, opening=0.7).opening == 0.7
    with pytest.raises(InvalidRequest, match="^opening must be a number from 0 to 5, got 6.0"):
        painter.sampling(opening=6.0)
