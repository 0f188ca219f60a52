"""Texts cleaned as LlamaGen cleans the captions and prompts that its T5 reads. Imports no torch.

    cleaned("A <b>Red</b> Apple &amp; a pear by @somebody")  # "a red apple a pear by"

Links, HTML, nicknames, article numbers, names of files, Chinese characters and other marks of captions from the web
are left out. Facts: language/t5.py of github.com/FoundationVision/LlamaGen, which has it from DeepFloyd's IF.
"""

from __future__ import annotations

import html
import re
from html.entities import html5
from html.parser import HTMLParser
from urllib.parse import unquote_plus

MOST = 2048  # characters that are read: some patterns take the square of a text's length

_DASHES = "\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
_DASHES += "\ufe31\ufe32\ufe58\ufe63\uff0d"
_DOMAIN = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
_ENDING = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"  # of a file's name
_Rule = tuple[re.Pattern[str], str]


def _rules(*rules: tuple[str, str]) -> tuple[_Rule, ...]:
    return tuple((re.compile(pattern), put) for pattern, put in rules)


_LINKS = _rules(
    ("<person>", "person"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{_DOMAIN})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-zA-Z0-9%])|{_DOMAIN})", ""),
)
_MARKS = _rules(
    (r"@[\w\d]+\b", ""),  # a nickname
    ("[\u31c0-\u9fff]+", ""),  # from CJK strokes to the unified ideographs
    (f"[\\-{_DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # an address of the internet
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),  # a line's end, spelt
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{_ENDING})", ""),
    ("[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
_JOINTS = re.compile("[-_]")
_WORDS = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # numbers of articles, of four kinds
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_ENDING})(\simage[s]?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


def cleaned(text: str) -> str:
    """`text` as the model was taught it: cleaned twice. Of a longer text the first MOST characters are read."""
    return _once(_once(text[:MOST]))


def _once(text: str) -> str:
    import ftfy  # only those who use this tokenizer wait for it

    text = _put(_LINKS, unquote_plus(text).strip().lower())
    text = _put(_MARKS, _shown(text))
    if len(_JOINTS.findall(text)) > 3:  # this-is-my-cute-cat
        text = _JOINTS.sub(" ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return _put(_WORDS, text).strip()


def _put(rules: tuple[_Rule, ...], text: str) -> str:
    for pattern, put in rules:
        text = pattern.sub(put, text)
    return text


def _shown(text: str) -> str:
    """What a page of this HTML shows; the text itself where it is no HTML that can be read."""
    page = _Page()
    try:
        page.feed(text)
        page.close()
    except AssertionError:  # a declaration that html.parser does not know
        return text
    return "".join(page.found)


_VOID = {
    "area", "base", "basefont", "bgsound", "br", "col", "command", "embed", "frame", "hr", "image", "img", "input",
    "isindex", "keygen", "link", "menuitem", "meta", "nextid", "param", "source", "spacer", "track", "wbr",
}  # fmt: skip
_HIDDEN = frozenset(("script", "style", "template", "rt", "rp"))


class _Page(HTMLParser):
    """Collects the texts of a page as BeautifulSoup does with Python's own parser: its `.text`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[str] = []
        self._open: list[str] = []  # tags
        self._closed: list[str] = []  # void ones, whose closing tag may still come

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        if tag in _VOID:
            self._closed.append(tag)
        else:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """A tag that closes itself holds nothing."""

    def handle_endtag(self, tag: str) -> None:
        if tag in self._closed:
            self._closed.remove(tag)
        elif tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if _HIDDEN.isdisjoint(self._open):
            self.found.append(data)

    def handle_entityref(self, name: str) -> None:
        self.handle_data(html5.get(name, html5.get(f"{name};", f"&{name}")))

    def handle_charref(self, name: str) -> None:
        base, digits = (16, name[1:]) if name[:1] in "xX" else (10, name)
        known = re.match("[0-9a-f]+" if base == 16 else "[0-9]+", digits)
        if known:
            self.handle_data(_character(int(known[0], base)))
        self.handle_data(digits[known.end() :] if known else digits)

    def unknown_decl(self, data: str) -> None:
        if data[:6].upper() == "CDATA[":
            self.handle_data(data[6:] or " ")


def _character(number: int) -> str:
    """Of a reference by number. Those below 256 are meant in Windows-1252, if it has them."""
    if number < 256:
        try:
            return bytes([number]).decode("windows-1252")
        except UnicodeDecodeError:
            pass
    return chr(number) if 0 < number < 0x110000 else "\ufffd"
