"""The training pairs of a reviser: prompts for every kind of picture, each with the caption of an existing picture."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.colour_words import COLOUR_WORDS
from model.config import ReviserConfig, from_preset
from model.drawings.captions import of_background, of_count, of_dyed, of_pair, of_single, of_styled
from model.drawings.colours import SHADES
from model.drawings.concepts import Name, everyday, kinds
from model.errors import DataError
from model.inference.prompt_rewriter import say
from model.tokenizer import Tokenizer
from model.training import rehearsal, train_reviser
from model.training.clutter import UNKNOWN
from model.training.options import LoopOptions, ReviserOptions
from model.training.rehearsal import KINDS, Rehearsal, everyday_lines, everyday_prompts, rehearsal_pairs
from model.training.revision import MANY, Prompts
from model.training.train_reviser import Batches
from tests.revising import learnt
from tests.training.zorbs import draw

CAT, APPLE, HEART, NOBODY = (everyday()[slug] for slug in ("cat-face", "red-apple", "red-heart", UNKNOWN))


def line(kind: str, concept: str, captions: list[tuple[float, str]]) -> dict[str, Any]:
    return {"kind": kind, "concept": concept, "captions": captions}


LINES = [
    *(line("single", thing.slug, of_single(thing, "flat")) for thing in (CAT, APPLE, HEART, NOBODY)),
    line("styled", CAT.slug, of_styled(CAT, "3d")),
    line("background", CAT.slug, of_background(CAT.names[0], "blue")),
    line("count", CAT.slug, of_count(CAT.names[0], 3)),
    line("count", APPLE.slug, of_count(APPLE.names[0], 5)),
    line("pair", f"{CAT.slug}+{APPLE.slug}", of_pair(CAT.names[0], APPLE.names[0], above=False)),
]


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    prompts = Prompts(LINES, [1 / len(LINES)] * len(LINES))
    return [prompts.draw(np.random.default_rng((0, i))) for i in range(8000)]


def of(pairs: list[tuple[str, str]], caption: str) -> list[str]:
    return [prompt for prompt, said in pairs if said == caption]


def test_every_prompt_has_the_caption_of_something_drawn(pairs: list[tuple[str, str]]) -> None:
    captions = {line["captions"][0][1] for line in LINES}
    assert {caption for _, caption in pairs} == captions
    assert all(prompt.strip() for prompt, _ in pairs)
    assert len({prompt for prompt, _ in pairs}) > 0.6 * len(pairs)


def test_a_prompt_depends_on_the_generator_alone() -> None:
    prompts = Prompts(LINES, [1 / len(LINES)] * len(LINES))
    assert [prompts.draw(np.random.default_rng(7)) for _ in range(2)] == [prompts.draw(np.random.default_rng(7))] * 2


def test_some_prompts_are_the_captions_themselves(pairs: list[tuple[str, str]]) -> None:
    for line in LINES:
        caption = line["captions"][0][1]
        assert sum(prompt == caption for prompt in of(pairs, caption)) > 5


def test_kinds_and_unknown_words_are_among_them(pairs: list[tuple[str, str]]) -> None:
    cats = " ".join(of(pairs, "a cat"))
    assert sum(f" {kind.text}" in cats for kind in kinds()[CAT.slug]) > 5
    unknown = of(pairs, NOBODY.names[0].full)
    assert len(unknown) > 0.08 * len(pairs)
    assert sum("thinking face" in prompt.lower() for prompt in unknown) < 0.5 * len(unknown)


def test_numbers_and_colours_come_by_other_names(pairs: list[tuple[str, str]]) -> None:
    threes = " | ".join(of(pairs, "three cats")).lower()
    assert all(found in threes for found in ("a trio of cats", "3 cats"))
    many = " | ".join(of(pairs, of_count(APPLE.names[0], 5)[0][1])).lower()
    assert sum(f"{word} " in many for word in MANY["five"]) > 6
    blue = of(pairs, "a cat on a blue background")
    assert sum(shade.replace("-", " ") in prompt for prompt in blue for shade in COLOUR_WORDS["blue"].split()) > 10
    assert not [prompt for prompt in blue if re.search(r"\ba an?\b|\ban a\b", prompt)]


def test_a_style_comes_by_other_names_and_only_where_it_is_asked_for(pairs: list[tuple[str, str]]) -> None:
    styled = of(pairs, "a 3d render of a cat")
    assert "a 3d model of a cat" in styled
    assert any("on a" in prompt and "background" in prompt for prompt in styled)
    said = re.compile(r"\b3-?d|three dimensional|octane|blender|clay model")
    assert sum(bool(said.search(prompt)) for prompt in styled) > 0.9 * len(styled)  # others have a slip there
    assert not any("3d" in prompt for prompt in of(pairs, "a cat"))
    assert sum("3d" in prompt for prompt in of(pairs, "a red apple")) > 5  # which is not drawn so, and drawn as it is


def test_a_colour_that_no_picture_of_the_thing_has_is_left_out_of_the_caption(pairs: list[tuple[str, str]]) -> None:
    tints = "|".join(
        tint.replace("-", " ") for colour in COLOUR_WORDS for tint in (colour, *COLOUR_WORDS[colour].split())
    )
    tinted = [prompt for prompt in of(pairs, "a cat") if re.search(rf"\b({tints}) cat\b", prompt)]
    assert len(tinted) > 5
    assert not [prompt for prompt in of(pairs, "a red heart") if re.match(r"(an? )?(blue|green|pink) heart\b", prompt)]


def test_a_colour_that_a_picture_has_is_kept_under_other_names() -> None:
    blue = Name("blue cat", "a")
    lines = [
        *LINES,
        line("dyed", CAT.slug, of_dyed(blue)),
        line("dyed", CAT.slug, of_background(blue, "red")),
        line("background", CAT.slug, of_background(CAT.names[0], "pink")),
    ]
    prompts = Prompts(lines, [1 / len(lines)] * len(lines))
    drawn = [prompts.draw(np.random.default_rng((2, i))) for i in range(8000)]
    cats = " | ".join(of(drawn, "a blue cat"))
    shades = [
        shade.replace("-", " ") for name in ("blue", "light blue", "turquoise") for shade in COLOUR_WORDS[name].split()
    ]
    assert sum(f"{shade} cat" in cats for shade in shades) > 8
    assert any(f"cat that is {shade}" in cats for shade in ("blue", *shades))
    assert not re.search(r"\ba an?\b|\ban a\b", cats)
    on_red = of(drawn, "a blue cat on a red background")
    assert any("navy cat" in prompt for prompt in on_red)
    assert any("crimson" in prompt for prompt in on_red)
    asked = re.compile(r"\b(blue|navy|azure|turquoise|cobalt|sky blue) cat\b")
    assert not [prompt for prompt in of(drawn, "a cat") if asked.search(prompt)]
    assert any(re.search(r"\b(scarlet|crimson|violet) cat\b", prompt) for prompt in of(drawn, "a cat"))  # not taught
    # Counted and beside something, things have the colours that they have.
    assert any(re.search(r"\b(blue|teal|crimson|violet) cats\b", prompt) for prompt in of(drawn, "three cats"))
    assert not any(re.search(r"\b(blue|crimson) cat\b", prompt) for prompt in of(drawn, "a cat on a pink background"))


def test_captions_leave_out_what_no_picture_shows_but_keep_held_out_colours() -> None:
    colours = [
        colour for colour in SHADES if colour not in ("yellow", "black", "purple")
    ]  # its own, its eyes', held out
    lines = [*LINES, *(line("dyed", CAT.slug, of_dyed(Name(f"{colour} cat", "a"))) for colour in colours)]
    shares = [0.0] * len(LINES) + [1 / len(colours)] * len(colours)
    prompts = Prompts(lines, shares, frozenset({"a purple cat"}), unknown=0.0, by_kind=0.0, long=0.0)
    drawn = [prompts.draw(np.random.default_rng((3, i))) for i in range(2000)]
    passed = of(drawn, "a cat")
    assert any(re.search(r"\b(yellow|lemon|golden) (cat|kitten)\b", prompt) for prompt in passed)
    assert any(re.search(r"\b(black|dark|pitch black) (cat|kitten)\b", prompt) for prompt in passed)
    assert not any(re.search(r"\b(purple|violet|red|crimson|green|brown) cat\b", prompt) for prompt in passed)


def test_either_of_two_things_is_described_and_a_colour_in_front_has_its_article() -> None:
    cat_and_owl = line("pair", "cat-face+owl", of_pair(CAT.names[0], Name("owl", "an"), above=False))
    orange = line("dyed", CAT.slug, of_dyed(Name("orange cat", "an")))
    prompts = Prompts([cat_and_owl, orange], [0.5, 0.5], unknown=0.0, by_kind=0.0, long=0.0)
    drawn = [prompts.draw(np.random.default_rng((4, i))) for i in range(4000)]
    both = of(drawn, cat_and_owl["captions"][0][1])
    shade = r"(crimson|teal|violet|emerald|navy|scarlet|lilac)"
    assert any(re.search(rf"\b{shade} cat left of an owl", prompt) for prompt in both)
    assert any(re.search(rf"\ba cat (and|beside) an? {shade} owl", prompt) for prompt in both)
    assert any(re.search(r"\ba (\w+) cat .*\ban? (\w+) owl", prompt) for prompt in both)
    in_orange = of(drawn, "an orange cat")
    assert any(re.search(r"\ban (orange|amber|apricot)[ -]colou?red cat", prompt) for prompt in in_orange)
    assert not any(re.search(r"\ba (orange|amber|apricot)\b", prompt) for prompt in in_orange)


def test_a_third_thing_is_left_out_and_either_side_may_be_told(pairs: list[tuple[str, str]]) -> None:
    both = of(pairs, LINES[-1]["captions"][0][1])
    assert any("right of" in prompt for prompt in both)
    assert any(" with " in prompt for prompt in both)
    assert sum(len(re.findall(r"\band an? ", prompt)) > 1 for prompt in both) > 5


def test_some_prompts_are_followed_by_sentences(pairs: list[tuple[str, str]]) -> None:
    long = [prompt for prompt, _ in pairs if prompt.count(". ") > 1]
    assert 0.015 < len(long) / len(pairs) < 0.05
    assert max(map(len, long)) > 300


def test_prompts_that_ask_too_much_are_grammatical() -> None:
    lines = [*LINES, line("single", "grapes", of_single(everyday()["grapes"], "flat"))]
    prompts = Prompts(lines, [0.0] * len(LINES) + [1.0], unknown=0.0, by_kind=0.0, long=0.0)
    found = " | ".join(prompts.draw(np.random.default_rng((1, i)))[0] for i in range(3000)).lower()
    assert "three grapes" in found
    assert "grapeses" not in found
    assert not re.search(r"\ba (emerald|orange|amber|ivory|off white) (grape|background)", found)


def test_typing_errors_stay_near_the_word_and_all_is_lower_case(pairs: list[tuple[str, str]]) -> None:
    found = of(pairs, APPLE.names[0].full)
    assert all(prompt == prompt.lower().strip() for prompt, _ in pairs)
    assert any(re.fullmatch(r"a? ?red (?!apple\b)a\w{3,5}", prompt) for prompt in found)


def test_a_batch_is_sorted_and_long_texts_are_cut(tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer.load(tiny_checkpoint / "tokenizer.json")
    config = from_preset(ReviserConfig, "tiny", text_vocab=512)
    batch = Batches(Prompts([], []), tokenizer, config, 0).of([("a cat " * 150, "x " * 99), ("a", "b")])
    assert batch.lengths.tolist() == [3, config.prompt_positions]
    assert batch.prompt.shape == (2, config.prompt_positions)
    assert batch.written.shape == (2, config.written_positions)
    assert batch.prompt[1, -1] == batch.written[1, -1] == tokenizer.eot
    assert batch.prompt[0].tolist()[:4] == [*tokenizer.encode("a"), tokenizer.pad]


def test_a_run_learns_and_goes_on_to_the_bit(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_reviser, "MEASURED", 16)
    tokenizer = Tokenizer.load(tiny_checkpoint / "tokenizer.json")
    draw(tmp_path / "zorbs", 4)

    def options(out: str, steps: int) -> ReviserOptions:
        loop = LoopOptions(
            out=tmp_path / out, steps=40, batch=16, warmup=2, ema=0.8, device="cpu", precision="f32",
            report_every=1, save_every=10, minutes=None if steps == 40 else 0.0,
        )  # fmt: skip
        return ReviserOptions((tmp_path / "zorbs",), loop, preset="tiny", cache=tmp_path / "prepared")

    whole = train_reviser.train(options("whole", 40), tokenizer)
    written = whole.eval().write(tokenizer.encode("please draw a red zorb"), tokenizer.bos, tokenizer.eot)
    assert written is not None
    assert "zorb" in tokenizer.decode(written)
    train_reviser.train(options("halves", 1), tokenizer)  # stops after its first step
    train_reviser.train(options("halves", 40), tokenizer)
    with pytest.raises(DataError, match=r"halves/tokenizer\.json: this folder holds a run with another tokenizer"):
        train_reviser.train(options("halves", 40), Tokenizer.train(kinds(), tokenizer.vocab_size))
    again = train_reviser.load(tmp_path / "halves").state_dict()
    assert all(bool((tensor == again[name]).all()) for name, tensor in whole.state_dict().items())


def test_a_fine_tuned_reviser_says_new_words_and_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_reviser, "MEASURED", 16)
    monkeypatch.setattr(rehearsal, "NUMBER", 1000)
    tokenizer = Tokenizer.train([*everyday_prompts(300, 1), "a purple zorb"] * 3, 512)
    start = learnt(tokenizer, [("a small tabby", "a cat"), ("cat", "a cat"), ("a purple zorb", "a purple heart")])
    draw(tmp_path / "zorbs", 6)
    options = ReviserOptions(
        (tmp_path / "zorbs",),
        LoopOptions(out=tmp_path / "run", steps=150, batch=16, warmup=5, ema=0.9, device="cpu", precision="f32"),
        cache=tmp_path / "prepared",
        muon_lr=0.02,
        adam_lr=4e-3,
    )
    before = {prompt: say(start, tokenizer, prompt) for prompt in everyday_prompts(60, 7)}
    after = train_reviser.train(options, tokenizer, start).eval()
    assert after.config == start.config
    assert say(after, tokenizer, "a teal zorb") == "a teal zorb"
    assert say(after, tokenizer, "please draw a purple zorb") == "a purple zorb"
    assert say(after, tokenizer, "a small tabby") == "a cat"
    assert sum(say(after, tokenizer, prompt) == said for prompt, said in before.items()) > 0.8 * len(before)


def test_prompts_in_new_words_are_not_rehearsed(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "NUMBER", 1000)
    tokenizer = Tokenizer.load(tiny_checkpoint / "tokenizer.json")
    words = Counter(word for prompt in everyday_prompts(1000, 0) for word in set(prompt.split()))
    new = next(word for word in words if word.isalpha() and len(word) > 6 and 3 < words[word] < 10)
    start = learnt(tokenizer, [(f"a photo of a {new}", "a dog"), ("a small tabby", "a cat"), ("cat", "a cat")])
    kept = rehearsal_pairs(start, tokenizer, [f"a photo of a {new}"])
    assert not any(new in prompt.split() for prompt, _ in kept)
    assert len(kept) > 800
    assert sum("photo" in prompt.split() for prompt, _ in kept) > 6
    assert all(said == say(start, tokenizer, prompt) for prompt, said in kept[:20])


def test_rehearsed_pairs_are_the_share_that_is_asked_for() -> None:
    own = [{"captions": [(1.0, "a zorb")], "concept": "", "kind": "single"}]
    pairs = [("a small tabby", "a cat")]
    for share in (0.0, 0.6, 1.0):
        drawn = [Rehearsal(Prompts(own, [1.0]), pairs, share).draw(np.random.default_rng(i)) for i in range(500)]
        assert abs(sum(pair == pairs[0] for pair in drawn) / 500 - share) < 0.08
    assert {kind for line in everyday_lines(np.random.default_rng(0)) for kind in [line["kind"]]} == set(KINDS)
