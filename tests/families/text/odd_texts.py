"""Texts of every sort that people and web pages write, always the same ones."""

from __future__ import annotations

import random

_LINES = """
a red apple on the table photo of cat dog running in New-York this_is_my_cute_cat this-is-my-cute-cat and-so-on
<person> a <person> sits <b>bold</b> <i>x <br> <br/> </br> <p class="x">para</p> <style>p{}</style>
<template>t</template> &amp; &amp;amp; &lt;b&gt; &quot;quoted&quot; &quot &amp &nbsp; &eacute; &#233; &#x1F600;
&#146; &unknown; &copy &AMP; R&D AT&T https://example.com/a/b.png http://x.ru www.site.org/page?x=1 site.com
mail@site.com @nickname @some_one. foo.co/bar- http:a image.png photo.JPG file_name.jpeg doc.pdf a.mp4. .png jpg
images png image pdf 12:34 1:23 3:45 192.168.0.1 10.0.0.1 #123 #12345 #1234 123456 1234567 12345 jc6640 jc6640vc
6640vc231 j2d1a2a 12x34 3.5x4.5 3×4 2х3 1.5 1,000 3d 4k 8K mp3 abc123 free shipping worldwide free shipping
download free download click for click on click here page 12 page 3 ab1234cd
东京 漢字 カタカナ ひらがな 한국어 привет мир ёлка
Ünïcödé naïve café ﬁne ﬂow Ａ１ ①② ½ ¼ ™ ® © ß ſ İ ı ǆ K Å हिन्दी ไทย עברית — – - ‐ ‑ ― 〜 ～ −− -- --- _ __ ... ..
. , ; : ! ? !!! ??? :) (a) [b] {c} |d| \\n \\ / * # ~ § ¡ ¿ · º @ % %20 a%20b 100% + a+b ++ " ' '' "" `x` ´ « »
“q” ‘q’ ¨ 'quoted' "quoted" don't it’s rock'n'roll < > a>b c>d </s> <pad> <unk> <extra_id_0> ▁ ▁▁x <rt>r</rt> 😀
\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f 🇫🇷 \u200b \xad \ufeff e\u0301 x\u0308 \u304b\u3099 ㈱ ㎏ 㐀
䷀ <a href="x.com">link</a> <img src="b"/> <div>y</div> astronaut riding horse watercolor oil painting isometric
1990s 3 4 5 two-tone A/B and/or e.g. i.e. U.S. Dr. v1.0 10% c++ .net
"""
WORDS = _LINES.split()
JOINTS = [" ", " ", " ", " ", " ", "  ", "", "-", "_", ".", ", ", "/", "\n", ": ", "+", "'", '"', "%20", " . ", ";"]


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed).random  # the one method whose numbers Python keeps for good

    def one_of(things: list[str]) -> str:
        return things[int(draw() * len(things))]

    found = []
    for _ in range(count):
        text = ""
        for _ in range(1 + int(draw() ** 3 * 30)):
            word = one_of(WORDS)
            text += (word.upper() if draw() < 0.08 else word) + one_of(JOINTS)
        found.append(text)
    return found
