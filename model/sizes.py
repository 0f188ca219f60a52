"""Limits of the sizes that a checkpoint may say, as types of config fields. Knows no tensors.

They leave room for the models of other people, and none for a size that only costs memory or time. They are held
against config.json when it is read and before it is written.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Interval, Len

MAX_CODES = 2**15  # ids of image tokens are sent as int16

Width = Annotated[int, Interval(ge=1, le=16384)]
Layers = Annotated[int, Interval(ge=1, le=256)]
Blocks = Annotated[int, Interval(ge=0, le=256)]
Heads = Annotated[int, Interval(ge=1, le=256)]
HeadDim = Annotated[int, Interval(ge=2, le=1024)]
Ratio = Annotated[float, Interval(gt=0, le=16)]
Vocabulary = Annotated[int, Interval(ge=1, le=2**20)]
Codes = Annotated[int, Interval(ge=1, le=MAX_CODES)]
Grid = Annotated[int, Interval(ge=1, le=128)]
Pixels = Annotated[int, Interval(ge=8, le=1024)]  # a side of a picture
Level = Annotated[int, Interval(ge=2, le=MAX_CODES)]
Levels = Annotated[tuple[Level, ...], Len(1, 16)]
LevelsOrNone = Annotated[tuple[Level, ...], Len(0, 16)]
TextTokens = Annotated[int, Interval(ge=1, le=4096)]
Positions = Annotated[int, Interval(ge=2, le=4098)]  # of a text, <bos> and <eot> counted
