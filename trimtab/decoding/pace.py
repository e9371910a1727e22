"""How many tokens to draft: the number that gains most by what acceptance and forwards have been measured to be.

With acceptance a and k drafts a cycle gives (1 - a^(k+1)) / (1 - a) tokens on average (Leviathan et al., 2023) and
takes t(k) = A + B k seconds; a plain step gives one token and takes t(0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_DECAY = 0.9
"""What a measurement is worth after the next one."""

_GAIN = 1.03
"""Speculation must promise this much more than plain stepping."""

_PAUSE = 32
"""Plain steps before a drafter that did not pay is tried again, and cycles before a plain step is measured again."""

_TRIAL = 4
"""Drafts of a first trial; a later one makes do with half."""

MOST = 12
"""Most drafts a cycle."""


@dataclass
class Pace:
    """What is known of one drafter at about this number of rows.

    Args:
        accepted: drafts accepted, decayed.
        tested: drafts tested, decayed.
    """

    accepted: float = 0.8
    tested: float = 1.0
    idle: int = 0
    busy: int = 0
    _plain: list[float] = field(default_factory=list)
    _cycles: list[tuple[int, float]] = field(default_factory=list)

    @property
    def acceptance(self) -> float:
        """Share of tested drafts that were accepted."""
        return self.accepted / self.tested

    @property
    def hoped(self) -> float:
        """The share half a standard error higher: where little is known, drafting is worth what it tells."""
        share = self.acceptance
        return min(share + 0.5 * math.sqrt(share * (1 - share) / self.tested), 0.999)

    @property
    def plain(self) -> float:
        """What a plain step takes: the fastest of the last three, since one may have waited; 0 if unknown."""
        return min(self._plain, default=0.0)

    def saw_plain(self, seconds: float) -> None:
        """Take note of a plain step."""
        self._plain = [*self._plain[-2:], seconds]
        self.idle, self.busy = self.idle + 1, 0

    def saw_cycle(self, k: int, seconds: float, accepted: int, tested: int) -> None:
        """Take note of a cycle of k drafts."""
        self.accepted = _DECAY * self.accepted + accepted
        self.tested = _DECAY * self.tested + tested
        self._cycles = [*self._cycles[-31:], (k, seconds)]
        self.idle, self.busy = 0, self.busy + 1

    def seconds(self, k: int) -> float:
        """Return what a cycle of k drafts is expected to take: a line through the cycles seen, newer ones first.

        Without cycles of different lengths its slope is that of a forward that takes a tenth more a token.
        """
        weights = [_DECAY**age for age in range(len(self._cycles))][::-1]
        total = sum(weights)
        mean_k = sum(w * seen for w, (seen, _) in zip(weights, self._cycles, strict=True)) / total
        mean_t = sum(w * t for w, (_, t) in zip(weights, self._cycles, strict=True)) / total
        spread = sum(w * (seen - mean_k) ** 2 for w, (seen, _) in zip(weights, self._cycles, strict=True))
        prior = max(mean_t - self.plain, 0.0) / mean_k if mean_k else 0.0
        shared = sum(w * (seen - mean_k) * (t - mean_t) for w, (seen, t) in zip(weights, self._cycles, strict=True))
        slope = (shared + prior) / (spread + 1.0)
        return mean_t + max(slope, 0.0) * (k - mean_k)

    def gain(self, k: int) -> float:
        """Return how many times faster than plain stepping cycles of k drafts are expected to be."""
        a = self.hoped
        tokens = (1 - a ** (k + 1)) / (1 - a)
        return tokens * self.plain / max(self.seconds(k), 1e-9)

    def best(self) -> tuple[int, float]:
        """Return how many tokens to draft, 0 for a plain step, and the gain that promises."""
        if not self._plain or self.busy >= _PAUSE:
            return 0, 1.0  # nothing to compare with, or nothing recent
        if not self._cycles:
            return _TRIAL, _GAIN
        most = max(map(self.gain, range(1, MOST + 1)))
        # The gain is flat around its maximum, and the fewest drafts of equal gain are the fewest to lose.
        k = next(k for k in range(1, MOST + 1) if self.gain(k) >= 0.97 * most)
        if self.gain(k) >= _GAIN:
            return k, self.gain(k)
        return (_TRIAL // 2, 1.0) if self.idle >= _PAUSE else (0, 1.0)
