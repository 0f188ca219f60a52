"""Styles in the engine: (seed, index) names one picture, alone and in company, whatever its neighbours are told."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from model.checkpoints import Checkpoint
from model.errors import InvalidRequest
from model.inference import engine as engine_module
from model.inference.engine import Engine
from model.inference.events import Event, Painted, Revised
from model.inference.requests import Completion, GenerationRequest, SamplingParams
from model.inference.texts import place
from model.painter import Painter
from tests.inference.test_engine import painted, run, same
from tests.revising import CIRCLE, KITTEN
from tests.styling import APPLE, CAT, MINE, STYLES, styled_checkpoint


@pytest.fixture(scope="module")
def styled(small: Checkpoint) -> Checkpoint:
    return styled_checkpoint(small)


def ask(
    checkpoint: Checkpoint, text: str, images: int = 1, seed: int = 1, name: str = "a", **more: object
) -> GenerationRequest:
    fields = {"revise": True, **more}
    guidance = float(fields.pop("guidance", 2.0))  # type: ignore[arg-type]
    ids = tuple(checkpoint.tokenizer.encode(text))
    return GenerationRequest(name, ids, images, SamplingParams(seed, guidance=guidance), **fields)  # type: ignore[arg-type]


def revised(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Revised)]


def test_four_cats_are_two_flat_and_two_in_3d(styled: Checkpoint) -> None:
    events = run(Engine(styled, slots=8), [ask(styled, KITTEN, 4)])
    assert revised(events) == [CAT]
    found = [painted(events)["a", index] for index in range(4)]
    expected = [("flat", None), ("3d", "a 3d cat")] * 2
    assert [(picture.style, picture.text) for picture in found] == expected[place(1) % 2 :][:4] + expected[
        : place(1) % 2
    ]
    flat, deep = (Engine(styled, slots=8) for _ in range(2))
    as_told = {
        "flat": painted(run(flat, [ask(styled, CAT, 4, revise=False)])),
        "3d": painted(run(deep, [ask(styled, "a 3d cat", 4, revise=False)])),
    }
    for index, picture in enumerate(found):
        assert same(picture, as_told[picture.style]["a", index])  # it is what its own text paints


@pytest.mark.parametrize("strict", [True, False])
def test_a_picture_has_the_same_style_alone_and_in_company(styled: Checkpoint, strict: bool) -> None:
    together = painted(run(Engine(styled, slots=6, strict=strict), [ask(styled, KITTEN, 5, seed=9)]))  # in turns
    crowd = [ask(styled, APPLE, 3, seed=3, name="b", guidance=1.0), ask(styled, CIRCLE, 2, name="c", score=True)]
    for index in range(5):
        alone = painted(run(Engine(styled, slots=2, strict=strict), [ask(styled, KITTEN, seed=9, first_index=index)]))
        among = painted(
            run(
                Engine(styled, slots=9, strict=strict),
                [crowd[0], ask(styled, KITTEN, 2, seed=9, first_index=index), crowd[1]],
            )
        )
        for other in (alone["a", index], among["a", index]):
            assert (other.style, other.text) == (together["a", index].style, together["a", index].text)
            assert same(other, together["a", index]) or not strict


def test_all_pictures_of_one_text_share_its_prefill(styled: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(styled, slots=12)
    read: list[tuple[int, ...]] = []
    prefill = engine.decoder._prefill

    def spy(slot: int, text_ids: tuple[int, ...]) -> object:
        read.append(tuple(text_ids))
        return prefill(slot, text_ids)

    monkeypatch.setattr(engine.decoder, "_prefill", spy)
    run(engine, [ask(styled, KITTEN, 6)])
    assert sorted(read) == sorted(tuple(styled.tokenizer.encode(text)) for text in (CAT, "a 3d cat"))


def test_a_style_that_is_asked_for_is_taken_where_it_knows_the_thing(styled: Checkpoint) -> None:
    def styles(text: str, **more: Any) -> list[tuple[str, str | None]]:
        found = painted(run(Engine(styled, slots=8), [ask(styled, text, 3, **more)]))
        return [(picture.style, picture.text) for picture in found.values()]

    assert styles(KITTEN, style="3d") == [("3d", "a 3d cat")] * 3
    assert styles(KITTEN, style="flat") == [("flat", None)] * 3
    assert styles(CIRCLE, style="3d") == styles(CIRCLE) == [("flat", None)] * 3
    assert styles(CAT, revise=False) == [("flat", None)] * 3
    assert styles(CAT, revise=False, style="3d") == [("3d", "a 3d cat")] * 3
    assert styles(MINE) == styles(MINE, style="flat") == [("3d", "a 3d cat")] * 3  # the prompt's own word counts most
    assert revised(run(Engine(styled, slots=8), [ask(styled, MINE)])) == [CAT]


def test_a_completed_text_is_left_alone_too(styled: Checkpoint) -> None:
    events = run(Engine(styled, slots=8), [ask(styled, "a red", 2, revise=False, complete=Completion(tokens=4))])
    assert {(picture.style, picture.text) for picture in painted(events).values()} == {("flat", None)}


def test_without_styles_a_picture_is_as_it_was(small: Checkpoint, styled: Checkpoint) -> None:
    config = dataclasses.replace(styled.config, styles=())
    bare = dataclasses.replace(styled, config=config, styles=type(STYLES)())
    one = painted(run(Engine(bare, slots=4), [ask(bare, KITTEN, 2)]))
    assert {(picture.style, picture.text) for picture in one.values()} == {("", None)}
    plain = painted(run(Engine(small, slots=4), [ask(small, CAT, 2, revise=False)]))
    flat = painted(run(Engine(styled, slots=4), [ask(styled, KITTEN, 2, style="flat")]))
    for key, picture in plain.items():
        assert same(picture, one[key])
        assert same(picture, flat[key])


def test_an_unknown_style_changes_nothing(styled: Checkpoint, small: Checkpoint) -> None:
    for checkpoint, said in ((styled, "one of auto, flat, 3d"), (small, "auto for a model without styles")):
        engine = Engine(checkpoint, slots=4)
        with pytest.raises(InvalidRequest, match=f"^style must be {said}, got 'glossy'$"):
            engine.add(ask(checkpoint, CAT, revise=False, style="glossy"))
        assert not engine.has_work
    request = ask(styled, CAT, style="3d")
    assert pickle.loads(pickle.dumps(request)) == request


def test_candidates_go_round_the_styles_and_are_scored_by_their_own_text(
    styled: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Judge:
        """Hears the texts, and likes short ones."""

        def __init__(self, *_: object) -> None: ...

        def encode_text(self, text_ids: tuple[int, ...]) -> tuple[int, ...]:
            return text_ids

        def similarity(self, _: object, text: tuple[int, ...]) -> float:
            return -len(text)

    monkeypatch.setattr(engine_module, "Scorer", Judge)
    checkpoint = dataclasses.replace(styled, clip=object())  # type: ignore[arg-type]
    found = painted(run(Engine(checkpoint, slots=8), [ask(styled, KITTEN, 4, score=True)]))
    lengths = {text: -len(styled.tokenizer.encode(text)) for text in (CAT, "a 3d cat")}
    assert {picture.score for picture in found.values()} == set(lengths.values())
    for picture in found.values():
        assert picture.score == lengths[picture.text or CAT]


def test_a_painters_pictures_tell_their_style(styled: Checkpoint) -> None:
    painter = Painter(styled)
    pictures = painter.generate(KITTEN, 4, seed=1)
    told = {(picture.info["style"], picture.info["revised"]) for picture in pictures}
    assert told == {("flat", CAT), ("3d", "a 3d cat")}
    (alone,) = painter.generate(KITTEN, seed=1, index=2)
    assert (alone.tobytes(), alone.info) == (pictures[2].tobytes(), pictures[2].info)
    assert {picture.info["style"] for picture in painter.generate(KITTEN, 2, seed=1, style="3d")} == {"3d"}
    (each,) = painter.generate_each([APPLE], seed=1, style="3d")
    assert (each.info["style"], each.info["revised"]) == ("3d", "a 3d red apple")
    assert painter.generate(APPLE, seed=1, style="flat")[0].info.get("revised") is None
    with pytest.raises(InvalidRequest, match="style must be one of auto, flat, 3d"):
        painter.generate(CAT, style="vivid")


def test_painted_goes_through_a_pipe() -> None:
    event = Painted("a", 1, b"rgb", b"", 0.1, 0.5, "3d", "a 3d cat")
    assert pickle.loads(pickle.dumps(event)) == event
