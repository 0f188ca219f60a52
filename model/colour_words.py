"""Each colour of the captions, with synonyms and the names of shades near it. "white" is the plain background.

Revisers are taught these words.
"""

from __future__ import annotations

COLOUR_WORDS = {
    "red": "crimson scarlet ruby cherry maroon bright-red dark-red burgundy vermilion blood-red",
    "orange": "tangerine amber apricot bright-orange dark-orange coral copper",
    "yellow": "lemon golden gold mustard bright-yellow pale-yellow sunny-yellow canary",
    "green": "emerald dark-green forest-green lime light-green olive bright-green jade mint-green pastel-green",
    "turquoise": "teal cyan aqua aquamarine blue-green",
    "light blue": "sky-blue pale-blue pastel-blue baby-blue azure powder-blue",
    "blue": "navy navy-blue royal-blue dark-blue cobalt indigo deep-blue sapphire bright-blue",
    "purple": "violet lilac lavender mauve plum magenta dark-purple pastel-purple",
    "pink": "rose salmon hot-pink pastel-pink light-pink fuchsia peach",
    "brown": "chocolate chestnut tan wooden dark-brown bronze light-brown",
    "gray": "grey silver charcoal slate light-gray dark-grey dark-gray light-grey concrete",
    "black": "jet-black pitch-black dark ebony very-dark",
    "white": "beige cream ivory off-white light plain clean blank transparent simple snow-white bright neutral",
}
