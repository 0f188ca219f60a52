"""Emoji in a prompt, read by their names in Unicode: "🍎" is "red apple", "👨‍🚀" "astronaut", "🇫🇷" "flag of France".

The names are those of Python's `unicodedata`, which knows single code points. Sequences (UTS 51) are put together here:
skin tones, presentation selectors, genders, professions of a person joined to a thing, and flags of regions.
"""

from __future__ import annotations

import re
import unicodedata

_ZWJ, _SELECTORS = "\u200d", "\ufe0e\ufe0f\u20e3"
_TONES = "".join(map(chr, range(0x1F3FB, 0x1F400)))
_REGION = 0x1F1E6  # REGIONAL INDICATOR SYMBOL LETTER A
_PICTURE = "[\u231a-\u23ff\u2600-\u27bf\u2b05-\u2b55\U0001f300-\U0001f64f\U0001f680-\U0001f6ff\U0001f7e0-\U0001faff]"
_ONE = f"{_PICTURE}[{_SELECTORS}{_TONES}]*"
_EMOJI = re.compile(
    f"[\U0001f1e6-\U0001f1ff]{{2}}|[0-9#*]\ufe0f?\u20e3|{_ONE}(?:{_ZWJ}(?:{_ONE}|[\u2640\u2642\u2695\u2696\u2708]\ufe0f?))*"
)
# A person joined to one of these has that profession (emoji-zwj-sequences.txt).
_WORKERS = {
    "🚀": "astronaut", "🍳": "cook", "⚕": "doctor", "🎓": "student", "🏫": "teacher", "⚖": "judge", "🌾": "farmer",
    "🔧": "mechanic", "🏭": "factory worker", "💼": "office worker", "🔬": "scientist", "💻": "programmer",
    "🎤": "singer", "🎨": "artist", "✈": "pilot", "🚒": "firefighter", "🍼": "person feeding a baby",
}  # fmt: skip
_PEOPLE = "👨👩🧑"
_GENDERS = "♀♂"
_SAID = {  # where the Unicode name is another word than people use
    "SMILING FACE WITH OPEN MOUTH": "smiling face", "WHITE HEAVY CHECK MARK": "check mark",
    "HEAVY BLACK HEART": "red heart", "BLACK SUN WITH RAYS": "sun", "WHITE MEDIUM STAR": "star", "AUTOMOBILE": "car",
    "SLICE OF PIZZA": "pizza", "FACE WITH TEARS OF JOY": "laughing face", "MAN AND WOMAN HOLDING HANDS": "couple",
}  # fmt: skip
_ANIMALS = (range(0x1F400, 0x1F440), range(0x1F980, 0x1F9AF))  # their names may end in FACE
_REGIONS = {  # by their codes in ISO 3166-1; the flags that captions name
    "AE": "the united arab emirates", "AF": "afghanistan", "AL": "albania", "AM": "armenia", "AR": "argentina",
    "AT": "austria", "AU": "australia", "BD": "bangladesh", "BE": "belgium", "BG": "bulgaria", "BO": "bolivia",
    "BR": "brazil", "BY": "belarus", "CA": "canada", "CH": "switzerland", "CL": "chile", "CN": "china",
    "CO": "colombia", "CR": "costa rica", "CU": "cuba", "CZ": "the czech republic", "DE": "germany", "DK": "denmark",
    "DZ": "algeria", "EC": "ecuador", "EE": "estonia", "EG": "egypt", "ES": "spain", "ET": "ethiopia",
    "EU": "the european union", "FI": "finland", "FR": "france", "GB": "the united kingdom", "GH": "ghana",
    "GR": "greece", "HK": "hong kong", "HR": "croatia", "HU": "hungary", "ID": "indonesia", "IE": "ireland",
    "IL": "israel", "IN": "india", "IQ": "iraq", "IR": "iran", "IS": "iceland", "IT": "italy", "JM": "jamaica",
    "JP": "japan", "KE": "kenya", "KH": "cambodia", "KP": "north korea", "KR": "south korea", "KW": "kuwait",
    "KZ": "kazakhstan", "LB": "lebanon", "LK": "sri lanka", "LT": "lithuania", "LU": "luxembourg", "LV": "latvia",
    "MA": "morocco", "MC": "monaco", "MM": "myanmar", "MN": "mongolia", "MT": "malta", "MX": "mexico",
    "MY": "malaysia", "MZ": "mozambique", "NG": "nigeria", "NL": "the netherlands", "NO": "norway", "NP": "nepal",
    "NZ": "new zealand", "PA": "panama", "PE": "peru", "PH": "the philippines", "PK": "pakistan", "PL": "poland",
    "PS": "palestine", "PT": "portugal", "PY": "paraguay", "QA": "qatar", "RO": "romania", "RS": "serbia",
    "RU": "russia", "RW": "rwanda", "SA": "saudi arabia", "SE": "sweden", "SG": "singapore", "SI": "slovenia",
    "SK": "slovakia", "SN": "senegal", "SO": "somalia", "SY": "syria", "TH": "thailand", "TN": "tunisia",
    "TR": "turkey", "TW": "taiwan", "TZ": "tanzania", "UA": "ukraine", "UG": "uganda", "US": "the united states",
    "UY": "uruguay", "UZ": "uzbekistan", "VA": "vatican city", "VE": "venezuela", "VN": "vietnam", "YE": "yemen",
    "ZA": "south africa", "ZW": "zimbabwe",
}  # fmt: skip


def spoken(text: str) -> str:
    """The text with the name of every emoji in its place, set off by spaces. Unknown sequences stay as they are."""
    return " ".join(_EMOJI.sub(lambda found: f" {_name(found[0])} ", text).split()) if _EMOJI.search(text) else text


def _name(emoji: str) -> str:
    """The name of one emoji, which may be a sequence; the emoji itself, if it has none."""
    if ord(emoji[0]) >= _REGION and ord(emoji[0]) < _REGION + 26:
        region = "".join(chr(ord("A") + ord(letter) - _REGION) for letter in emoji)
        return f"flag of {_REGIONS[region]}" if region in _REGIONS else emoji
    if emoji[-1] == "\u20e3":
        return f"number {emoji[0]}" if emoji[0].isdigit() else emoji
    plain = emoji.translate(dict.fromkeys(map(ord, _SELECTORS + _TONES)))
    first, *joined = plain.split(_ZWJ)
    parts = [part for part in joined if part not in _GENDERS]
    if first in _PEOPLE and len(parts) == 1 and parts[0] in _WORKERS:
        return _WORKERS[parts[0]]
    if first in _PEOPLE and len(parts) > 1:
        return "family"
    return _of_one(first) or emoji


def _of_one(character: str) -> str:
    """The name of one code point in words, "" for none."""
    name = unicodedata.name(character, "")
    if name in _SAID:
        return _SAID[name]
    name = re.sub(r"^(HEAVY|BLACK|WHITE|WORLD) (?=(EXCLAMATION|QUESTION|CHECK|SUN|STAR|SNOWMAN))", "", name)
    if any(ord(character) in block for block in _ANIMALS):
        name = name.removesuffix(" FACE")
    return name.removesuffix(" SIGN").lower()
