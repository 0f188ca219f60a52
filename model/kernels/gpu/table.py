"""What the kernels are told of each slot: one table on the device, which changes when a picture joins or leaves."""

from __future__ import annotations

from enum import IntEnum, auto


class Column(IntEnum):
    """The columns of the table, (columns, slots) float64."""

    IMAGE = 0  # 1 where an image is drawn: conditional slots
    HELD = auto()  # 1 where a row is computed for an image: null slots too
    SOURCE = auto()  # the slot whose tokens it reads
    NULL = auto()  # of an image: its null slot, or itself without guidance
    GUIDANCE = auto()
    TEMPERATURE = auto()
    OPENING = auto()  # the temperature until something is drawn
    GREEDY = auto()  # 1 takes the likeliest token
    TOP_K = auto()  # the vocabulary's size is off
    TOP_P = auto()  # 1 is off
    SCORED = auto()  # 1 where the likelihood is added up
