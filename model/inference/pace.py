"""How fast the engine has been of late: a moving mean over the last steps."""

from __future__ import annotations

from collections import deque

_STEPS = 64


class Pace:
    """steps, tokens: since the start. The means are over the last 64 steps, 0.0 before the first."""

    def __init__(self) -> None:
        self.steps = 0
        self.tokens = 0
        self._recent: deque[tuple[float, int]] = deque(maxlen=_STEPS)

    def step(self, seconds: float, tokens: int) -> None:
        """One step took so long and drew so many tokens."""
        self.steps += 1
        self.tokens += tokens
        self._recent.append((seconds, tokens))

    @property
    def seconds_per_step(self) -> float:
        """Painting between the steps included."""
        return sum(seconds for seconds, _ in self._recent) / len(self._recent) if self._recent else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Image tokens of all pictures, while stepping."""
        seconds = sum(seconds for seconds, _ in self._recent)
        return sum(tokens for _, tokens in self._recent) / seconds if seconds else 0.0

    def restart(self) -> None:
        """Forget the counts and keep the means: a warm-up is over."""
        self.steps = self.tokens = 0
