"""The parts that a job is painted in: some pictures of one prompt, which share one reading of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PART = 8  # pictures of a part


@dataclass(frozen=True)
class Part:
    """Some pictures of one prompt of a job. prompt: its place among the prompts. first: the place of the first picture
    among those of its prompt. count: how many. number: the first picture's place in the job."""

    prompt: int
    first: int
    count: int
    number: int


def parts(total: int, count: int, done: frozenset[int], whole: bool) -> Iterator[Part]:
    """The parts of a job that are not painted yet, in order.

    count: pictures of each prompt. done: numbers of those that are kept.
    whole: all pictures of a prompt are one part, since they are chosen from together.
    """
    for prompt in range(total // count):
        begin = prompt * count
        missing = [number for number in range(begin, begin + count) if number not in done]
        while missing:
            most = count if whole else PART
            run = [number for i, number in enumerate(missing[:most]) if whole or number == missing[0] + i]
            first = 0 if whole else run[0] - begin
            yield Part(prompt, first, count if whole else len(run), begin + first)
            missing = [] if whole else missing[len(run) :]
