"""A reward that remembers what it has scored."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from trimtab.errors import ConfigError
from trimtab.rewards.reward import Reward, as_reward
from trimtab.rewards.score import score


@dataclass(frozen=True)
class Cached:
    """A reward with a memory of its last scores, keyed by prompt, completion and further columns.

    Args:
        reward: what scores a row that is not remembered; it has to be a function of the row alone.
        size: how many rows are remembered; the one that was not asked for the longest is forgotten first.

    Raises:
        ConfigError: ``size`` is not positive, or ``reward`` is not a reward.

    Example:
        >>> from trimtab.rewards import Length
        >>> remembered = Cached(Length(2), size=100)
        >>> remembered(["a", "a"], ["two words", "two words"]), len(remembered.memory)
        ([1.0, 1.0], 1)
    """

    reward: Reward
    size: int = 10_000
    memory: OrderedDict[tuple[str, ...], float] = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "reward", as_reward(self.reward))
        if not isinstance(self.size, int) or self.size < 1:
            raise ConfigError(given=f"size={self.size!r}", expected="at least 1 row", hint="size=10000")

    @property
    def name(self) -> str:
        """The name of the reward itself: remembering changes no score."""
        return self.reward.name

    @property
    def origins(self) -> frozenset[str]:
        """Those of the reward itself."""
        return self.reward.origins

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return the scores, asking the reward only for rows that are not remembered, each of them once."""
        keys = [
            (prompt, completion, *(f"{name}={column[row]!r}" for name, column in columns.items()))
            for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        known = {key: self.memory[key] for key in keys if key in self.memory}
        first: dict[tuple[str, ...], int] = {}
        for row, key in enumerate(keys):
            if key not in known:
                first.setdefault(key, row)
        fresh = score(
            self.reward,
            [prompts[row] for row in first.values()],
            [completions[row] for row in first.values()],
            {name: [column[row] for row in first.values()] for name, column in columns.items()},
        )
        known.update(zip(first, fresh, strict=True))
        self._remember(known)
        return [known[key] for key in keys]

    def _remember(self, scores: dict[tuple[str, ...], float]) -> None:
        """Note that these rows were asked for just now, and forget the oldest beyond the size."""
        for key, value in scores.items():
            self.memory[key] = value
            self.memory.move_to_end(key)
        while len(self.memory) > self.size:
            self.memory.popitem(last=False)
