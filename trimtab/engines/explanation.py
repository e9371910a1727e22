"""How an engine runs the parts of a policy, as a table; the worst part decides for the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from trimtab.errors import ConfigError

Verdict = Literal["exact", "approximate on the top k", "approximate by bias", "chunk search only", "impossible"]
"""How a part runs, best first. What runs only in a chunk search does not run as it is written."""

_ORDER: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Part:
    """How an engine runs a part of a policy.

    Args:
        what: the part, such as "control token of guide".
        verdict: how it runs.
        reason: why, in one sentence.
        way_out: what to do instead, in one sentence; empty where it runs exactly.
    """

    what: str
    verdict: Verdict
    reason: str
    way_out: str = ""


@dataclass(frozen=True)
class Explanation:
    """How an engine runs a policy.

    Args:
        policy: the policy, as text.
        engine: the engine's name.
        parts: at least one.

    Example:
        >>> token = Part("control token of guide", "impossible", "all LMs read the same tokens", "train without one")
        >>> Explanation("base * guide", "vllm", (Part("LM base", "exact", "it runs"), token)).verdict
        'impossible'
    """

    policy: str
    engine: str
    parts: tuple[Part, ...]

    @property
    def worst(self) -> Part:
        """The part that decides for the whole; of equals the first."""
        return max(self.parts, key=lambda part: _ORDER.index(part.verdict))

    @property
    def verdict(self) -> Verdict:
        """How the whole runs."""
        return self.worst.verdict

    def check(self, accepted: Verdict = "exact") -> None:
        """Refuse a policy that the engine does not run as it is written.

        Args:
            accepted: the worst that will do; whoever accepts an approximation has to say so.

        Raises:
            ConfigError: a part runs worse than that; the message names it.
        """
        worst = self.worst
        if _ORDER.index(worst.verdict) > _ORDER.index(accepted):
            raise ConfigError(
                given=f"{worst.what} in {self.policy}, which is {worst.verdict} on the engine {self.engine}: "
                + worst.reason,
                expected="a policy of which every part is exact" + ("" if accepted == "exact" else f", or {accepted}"),
                hint=worst.way_out,
            )
