"""Captions among words that say nothing of the picture, as people type them: "please draw a cute cat in the park".

The corpus's captions name what is seen and nothing else, and a small model that has read no others takes every unknown
word for a thing: the more is said, the less it draws. Taught some captions with words around them that fit any picture,
it learns to look for the words that it knows. Word dropout turned round (compare 1511.06349, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from model.training.corpus.concepts import Name, article, everyday, evocations, kinds, ordinary


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase for line in text.splitlines() for phrase in line.strip().split("|") if phrase)


_OPENINGS = _phrases("""
    please draw|draw|draw me|paint|can you draw|could you paint|i want to see|i would like|show me|make|create
    give me|a picture of|a photo of|a photograph of|an image of|a painting of|an oil painting of|a watercolour of
    a sketch of|a beautiful picture of|a detailed illustration of|a cute drawing of|a portrait of|a poster of
    a logo of|a sticker of|a cartoon of|a digital painting of|concept art of|a children's book illustration of
    a close up of|an icon of|a drawing of|generate an image of|a stock photo of
    something nice for a card, maybe|a vintage photo of|a minimalist drawing of|a realistic photo of
    once upon a time there was|my friend has|look at|this is|here is|we all love|imagine|what about
    hello, please paint|a dream of|a story about|the story of|a card with
""")
_ADJECTIVES = _phrases(
    """
    cute happy sad funny beautiful lovely old young lonely brave magical shiny fluffy strange friendly famous
    proud lazy tired hungry wise clever silly cheerful fancy modern ancient giant little pretty perfect
    realistic wooden plastic metal glass flying running dancing jumping singing swimming laughing walking tasty
    fresh delicious cool amazing wonderful elegant mysterious scary spooky wild calm fast slow heavy light noisy
    quiet dirty clean new single simple detailed colourful bright dark soft round favourite
""".replace(" ", "|")
)
_SUPERLATIVES = _phrases("""
    cutest|prettiest|funniest|happiest|saddest|biggest|smallest|best|worst|coolest|loveliest|strangest|oldest|sweetest
    laziest|scariest|silliest|most beautiful|most famous|most expensive|most amazing
""")
_OF_ALL = ("", "", " ever", " ever seen", " in the world", " of all", " you can think of", " in town", " i know")
_ENDINGS = _phrases("""
    in the park|in the garden|in the forest|in the city|in the kitchen|on a table|on the beach|on the street
    at night|in space|in the sky|under the sea|in the mountains|in the desert|in the snow|in the rain|in the morning
    at sunset|on the moon|at home|at school|at work|in winter|in summer|in spring|in paris|in new york|in my dream
    on holiday|wearing a hat|wearing glasses|wearing a suit|riding a bike|eating dinner|drinking coffee
    reading a newspaper|playing music|playing football|driving fast|flying high|running away|jumping over a fence
    sitting on a sofa|sleeping|dancing|singing|smiling|laughing|looking at me|looking sad|looking happy
    thinking about life|waiting for a friend|with friends|with wings|with big eyes|with a smile|with flowers
    for my birthday|for my mother|for a greeting card|in the style of van gogh|in the style of picasso
    in the style of monet|in watercolour|in pencil|as a sculpture|made of wood|made of glass|made of stone
    made of paper|high quality|highly detailed|4k|8k resolution|masterpiece|trending on artstation|studio lighting
    soft light|cinematic|photorealistic|black and white photograph|vector art|and nothing else|please|thank you
    as fast as possible|that everybody likes|which nobody has seen before|, digital art|from above|from far away
    by candlelight|in a storm|in the mist|lost at sea|that got lost|that lost a shoe|on the way home
    heading for the coast|leaving for france tomorrow|going uphill|sliding down a hill
    stuck in the mud|on holiday in rome|back from the moon
    in the distance|, very simple|, no text|in the middle of nowhere|, 1990s
""")
_JOINTS = _phrases("and|but|because|while|when|although|so|until|after|before|even if|, and then")  # of two clauses
_BEFORE = _phrases("""
    in front of|in|inside|near|behind|with|holding|wearing|carrying|looking at|full of|covered with|made by
    at|from|into|over|through|across|playing|eating|dressed as|sitting on|standing on|sitting in|shaped like|before
    around|surrounded by
""")  # of another thing, to which the picture's stands in no relation that is taught
_COLOURS = _phrases(
    "red|blue|green|yellow|orange|purple|pink|brown|black|white|grey|golden|silver|dark blue|light green"
)
_LINKS = _phrases("and|thinking about|full of|, a symbol of|on the subject of|or|;|who dreams of")  # to an idea beside
UNKNOWN = "thinking-face"  # what is drawn for words that nobody knows
_LETTERS = ("bcdfghjklmnprstvwz", "aeiou")


def pick(texts: Sequence[str], random: np.random.Generator, *, strip: bool = True) -> str:
    """One of them, each as often."""
    text = texts[int(random.integers(len(texts)))]
    return text.strip() if strip else text


def _invented(random: np.random.Generator) -> str:
    """A word of one to four syllables that nobody knows."""
    syllables = int(random.integers(1, 5))
    return "".join(pick(letters, random) for _ in range(syllables) for letters in _LETTERS)


def described(caption: str, random: np.random.Generator) -> str:
    """ "a cat" -> "a lonely cat", now and then "an orbivu cat" or "the cutest cat ever"."""
    kind, (first, _, rest) = random.random(), caption.partition(" ")
    if 0.2 <= kind < 0.28 and first in ("a", "an") and rest and " on " not in rest:
        return f"the {pick(_SUPERLATIVES, random)} {rest}{pick(_OF_ALL, random, strip=False)}"
    adjective = _invented(random) if kind < 0.2 else pick(_ADJECTIVES, random)
    if first in ("a", "an") and rest:
        return f"{article(adjective)} {adjective} {rest}"
    return caption if first == "the" else f"{adjective} {caption}"


@cache
def _things() -> tuple[Name, ...]:
    kind = (name for of_one in kinds().values() for name in of_one)
    return (*kind, *(name for thing in everyday().values() for name in thing.names if thing.group != "flag"))


def _setting(random: np.random.Generator) -> str:
    """Another thing, which is not what is drawn: "in front of an old barn", "wearing a yellow raincoat"."""
    thing = _things()[int(random.integers(len(_things())))]
    words = [thing.text]
    if random.random() < 0.3:
        words.insert(0, pick(_COLOURS, random))
    if random.random() < 0.4:
        words.insert(0, pick(_ADJECTIVES, random))
    text = " ".join(words)
    return f"{pick(_BEFORE, random)} {article(text)} {text}" if thing.article else f"{pick(_BEFORE, random)} {text}"


@cache
def _ideas() -> tuple[str, ...]:
    return tuple(text for texts in evocations().values() for text in texts)


@cache
def _known_words() -> tuple[str, ...]:
    texts = (*_ADJECTIVES, *_ENDINGS, *_OPENINGS, *_ideas())
    return tuple(sorted({word for text in texts for word in text.split() if len(word) > 3 and word.isalpha()}))


def _spliced(random: np.random.Generator) -> str:
    """The head of one word and the tail of another: nobody knows it, and its pieces are those of English."""
    head, tail = pick(_known_words(), random), pick(_known_words(), random)
    return head[: (len(head) + 1) // 2] + tail[len(tail) // 2 :]


@cache
def _empty_phrases() -> tuple[str, ...]:
    """The clutter without a word that brings something to mind by itself."""
    ideas = set(_ideas())
    return tuple(phrase for phrase in (*_ADJECTIVES, *_ENDINGS) if ideas.isdisjoint(phrase.split()))


def _ordinary(random: np.random.Generator) -> str:
    """A few ordinary words or a sentence of them: "the outcome of a vote", "it felt strange at first"."""
    kind = random.random()
    if kind < 0.3:
        noun = pick(ordinary("nouns"), random)
        if random.random() < 0.5:
            noun = f"{pick(ordinary('adjectives'), random)} {noun}"
        if random.random() < 0.3:
            return f"the {noun} of {pick(ordinary('nouns'), random)}"
        return noun if random.random() < 0.4 else f"{article(noun)} {noun}"
    if kind < 0.5:
        return pick(ordinary("doings"), random)
    first, second = (pick(ordinary("doings" if draw < 0.35 else "clauses"), random) for draw in random.random(2))
    return first if random.random() < 0.3 else f"{first} {pick(_JOINTS, random)} {second}".replace(" ,", ",")


def unknown(random: np.random.Generator) -> str:
    """A text that names nothing: ordinary words or some that nobody knows, bare or with clutter around, or clutter."""
    word = _spliced if random.random() < 0.6 else _invented
    kind = random.random()
    if kind < 0.4:
        return _ordinary(random)
    if kind < 0.6:
        return " ".join(word(random) for _ in range(int(random.integers(1, 4))))
    if kind < 0.85:
        thing = word(random)
        return _surrounded(f"{article(thing)} {thing}", random)
    return " ".join(pick(_empty_phrases(), random).lstrip(", ") for _ in range(int(random.integers(1, 3))))


def _evoked(concept: str, random: np.random.Generator) -> str | None:
    """A text without a thing that brings this concept to mind; None where there is none."""
    if concept == UNKNOWN and random.random() < 0.8:
        return unknown(random)
    texts = evocations().get(concept)
    return pick(texts, random) if texts else None


def texts() -> Iterator[str]:
    """The words that `clutter` may put into a caption, but for invented ones, for a tokenizer to learn."""
    yield from (*_OPENINGS, *_ADJECTIVES, *_SUPERLATIVES, *_OF_ALL, *_ENDINGS)
    yield from (*_BEFORE, *_COLOURS, *_JOINTS, *_LINKS, *_ideas())
    yield from (kind.full for of_one in kinds().values() for kind in of_one)
    yield from (text for section in ("nouns", "adjectives", "doings", "clauses") for text in ordinary(section))


def _ending(random: np.random.Generator, named: bool) -> str:
    kind = random.random()
    if named and kind < 0.3:
        return _setting(random)
    if named and kind < 0.45:
        return f"{pick(_LINKS, random)} {pick(_ideas(), random)}"
    if named and kind < 0.6:
        return f"{pick(_JOINTS, random)} {pick(ordinary('clauses'), random)}"
    return _invented(random) if random.random() < 0.1 else pick(_ENDINGS, random)


def _surrounded(caption: str, random: np.random.Generator, *, named: bool = False) -> str:
    """named: the caption names a thing, which then counts for more than any thing or idea that is put beside it."""
    opened, adorned, ended = random.random(3) < (0.4, 0.4, 0.6)
    if adorned or not (opened or ended):
        caption = described(caption, random)
        if random.random() < 0.3:
            caption = described(caption, random)
    if opened:
        caption = f"{pick(_OPENINGS, random)} {caption}"
    while ended:  # up to a long sentence
        caption = f"{caption} {_ending(random, named)}".replace(" ,", ",")
        ended = bool(random.random() < 0.4)
    return caption


def clutter(caption: str, random: np.random.Generator, concept: str = "") -> str:
    """`caption` with one addition or more: of "a girl in a yellow raincoat on a beach" the girl is drawn.

    A feeling, a verb or an idea names no thing ("love", "a man running"): texts that bring `concept` to mind
    (corpus/evocations.txt) take the caption's place two times in five, most of them bare; and half of the others a kind
    of the thing, where there are some ("a labrador"; corpus/kinds.txt). Words that nobody knows are about `UNKNOWN`:
    without a picture of its own such a text would be drawn as the mean of all pictures, a blank sheet.
    """
    if random.random() < (0.75 if concept == UNKNOWN else 0.4) and (evoked := _evoked(concept, random)):
        return evoked if random.random() < 0.6 else _surrounded(evoked, random)
    if (of_one := kinds().get(concept)) and random.random() < 0.5:
        kind = of_one[int(random.integers(len(of_one)))]
        caption = kind.full if random.random() < 0.8 else kind.text
        if random.random() < 0.6:
            return caption
    return _surrounded(caption, random, named=True)
