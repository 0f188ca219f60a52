"""The named colours of backgrounds and shapes, and the shades of the colours in which drawings are dyed."""

from __future__ import annotations

from .drawing import Colour

# Colour names that people type, each with one exact colour. They are far enough apart to be told from each other.
COLOURS: dict[str, Colour] = {
    "red": (220, 38, 38),
    "orange": (245, 130, 32),
    "yellow": (250, 210, 40),
    "green": (40, 160, 70),
    "turquoise": (50, 190, 180),
    "light blue": (130, 200, 245),
    "blue": (40, 90, 215),
    "purple": (130, 60, 180),
    "pink": (250, 150, 190),
    "brown": (125, 80, 45),
    "gray": (140, 140, 140),
    "black": (15, 15, 15),
    "white": (255, 255, 255),
}

# The deepest, the middle and the palest shade of each colour, as emoji sets use them.
SHADES: dict[str, tuple[Colour, Colour, Colour]] = {
    "red": ((124, 2, 24), (221, 46, 68), (244, 150, 160)),
    "orange": ((170, 74, 4), (248, 146, 28), (255, 204, 140)),
    "yellow": ((200, 130, 8), (255, 208, 70), (255, 236, 176)),
    "green": ((44, 86, 20), (108, 174, 72), (190, 224, 168)),
    "blue": ((26, 76, 122), (70, 150, 226), (176, 216, 246)),
    "purple": ((66, 36, 110), (136, 92, 194), (208, 188, 236)),
    "pink": ((196, 64, 120), (246, 146, 188), (252, 212, 228)),
    "brown": ((74, 32, 16), (158, 88, 56), (214, 164, 134)),
    "black": ((10, 12, 14), (44, 50, 54), (104, 112, 118)),
    "gray": ((82, 96, 106), (150, 166, 178), (208, 216, 222)),
    "white": ((150, 164, 176), (228, 233, 238), (250, 251, 252)),
}
