"""People in a prompt, whom a model does not know: the thing that is nearest to each, "a man" or "a woman"."""

from __future__ import annotations

from collections.abc import Sequence

from model.things import stem

# Roles, first names that are no other words, and some surnames.
_MEN = """
    president minister chancellor senator politician emperor pharaoh philosopher poet composer gentleman mr sir lord
    tsar dictator king
    aaron abraham adam adolf ahmed alan albert alexander alfred ali andrew andy anthony antonio arnold arthur bach
    barack beethoven ben benjamin bernie bezos bob boris brad brian bruce caesar carl carlos charles charlie chris
    christopher churchill cristiano daniel darwin dave david donald douglas ed edgar edward einstein elon elvis
    emmanuel eric ernest fidel francis franz fred frederick freud galileo gandhi gary george gerard giovanni gordon
    greg gustav hans harold harry heinrich hemingway henry herbert hitler hugh ian isaac ivan james jason jay jeff
    jeffrey jeremy jerry jesus jim jimmy joe joey johann johannes john johnny jonathan jose joseph josh juan julius
    justin karl keanu keith ken kevin klaus kurt larry lenin leo leonardo leonid lincoln lionel louis luca lucas
    ludwig luke mahatma mao marco mario martin matthew max messi michael michelangelo miguel mike mohammed mozart
    muhammad musk napoleon narendra neil nelson newton nicholas nicolas nikita nikola obama olaf oliver omar oscar
    otto pablo patrick paul pedro peter philip picasso pierre plato putin quentin rafael ralph richard robert roger
    roman ronald ronaldo ryan salvador samuel sebastian shakespeare sigmund simon socrates stalin stephen steve
    steven stuart thomas tim timothy tom tommy tony trump usain vincent vlad vladimir walt walter werner william
    winston wolfgang xi yuri zlatan
"""
_WOMEN = """
    queen lady mrs ms actress empress duchess
    adele agatha aisha alexandra alice amanda amelia amy angela angelina anna anne annie audrey barbara beyonce
    brigitte britney camilla caroline cate catherine charlotte chloe christina claire claudia cleopatra coco diana
    dolly dorothy elena elizabeth ella ellen emily emma esmeralda fatima florence frida gertrude greta hannah heidi
    helen helena hermione hillary ingrid isabella jacqueline jane janet jennifer jessica joan joanna judith judy
    julia julie kamala karen kate katherine katy kim lara laura lena linda lisa lucy madonna malala margaret maria
    marie marilyn marlene martha mary megan melania merkel meryl michelle miley monica nancy naomi natalie nicole
    nina olga olivia oprah pamela patricia paula rachel rebecca rihanna rosalind rowling samantha sandra sara sarah
    scarlett selena serena shakira sofia sophia sophie susan suzanne sylvia tatiana teresa thatcher theresa uma
    ursula valentina vanessa veronica victoria whitney yoko zendaya
"""
_SOMEBODY = "portrait selfie person somebody someone celebrity"  # of whom nothing more is told
_PEOPLE = {stem(word): "a man" for word in _MEN.split()} | {stem(word): "a woman" for word in _WOMEN.split()}
_UNNAMED = frozenset(map(stem, _SOMEBODY.split()))


def nearest_people(words: Sequence[str]) -> list[str]:
    """The things that are nearest to the people in these words, which are stems: ["a woman"] for "angela merkel"."""
    found = [_PEOPLE[word] for word in words if word in _PEOPLE]
    return found + ["a man" for word in words if word in _UNNAMED]
