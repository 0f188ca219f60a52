"""Whether a lone picture's step is fed guesses of the tokens that follow: while this makes tokens sooner.

A step that is fed AHEAD guesses takes longer, and draws one token more for each guess that was right (see
`model.kernels.ordinary`). How many are right depends on the model and on the picture: nearly all on a plain ground, few
in a photo. So both ways are timed. What the clock says cannot be seen in a picture, because its tokens are the same.
"""

from __future__ import annotations

AHEAD = 3  # a step of four rows took 1.3 to 1.6 times as long as one of a single row; of five 1.7 to 1.9 (Zen 5)
TRIAL = 10  # steps; the first few have poor guesses
SETTLED = 4  # steps of a trial that do not count
PATIENCE, MOST_PATIENCE = 32, 1024  # steps until the next trial, twice as many after each that was in vain
_WEIGHT = 0.1  # of the last step in a mean


class Ahead:
    """Chooses for each step, and is told what came of it."""

    def __init__(self) -> None:
        self._plain = self._guessed = 0.0  # mean seconds a token; 0 where not known
        self._on = False
        self._run = 0  # steps since the present way was taken
        self._patience = PATIENCE

    def choose(self) -> int:
        """Tokens to guess in the next step."""
        if not self._on and self._run >= self._patience:
            self._take(True)
        elif self._on and self._run >= TRIAL and self._guessed > self._plain:
            self._patience = min(2 * self._patience, MOST_PATIENCE)
            self._take(False)
        return AHEAD if self._on else 0

    def note(self, seconds: float, tokens: int) -> None:
        """What the step took that was chosen last, and how many tokens it made."""
        self._run += 1
        each = seconds / tokens
        if not self._on:
            self._plain = _mean(self._plain, each)
        elif self._run > SETTLED:
            self._guessed = _mean(self._guessed, each)
            if self._run > TRIAL:
                self._patience = PATIENCE

    def _take(self, on: bool) -> None:
        self._on, self._run = on, 0
        self._guessed = 0.0


def _mean(mean: float, value: float) -> float:
    return value if mean == 0.0 else mean + _WEIGHT * (value - mean)
