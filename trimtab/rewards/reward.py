"""What a reward is: a scorer of finished answers, with the signature that TRL uses and an identity.

Judges have the same form. Nothing calls a reward directly but ``score``, which lets only finite numbers pass.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from trimtab.errors import ConfigError


@runtime_checkable
class Reward(Protocol):
    """A scorer of finished answers; higher is better.

    Example:
        >>> def shouting(completions: list[str], **columns: object) -> list[float]:
        ...     return [float(text.isupper()) for text in completions]
        >>> isinstance(as_reward(shouting), Reward)
        True
    """

    @property
    def name(self) -> str:
        """The identity of the reward, options included: equal names score equally."""

    @property
    def origins(self) -> frozenset[str]:
        """Names of the scorers in it and of the data it learned from; scorers that share one are not independent."""

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return one finite number a completion; ``columns`` are further columns of the data, with as many entries."""


@dataclass(frozen=True)
class FunctionReward:
    """A user's function as a reward.

    Args:
        function: called with ``prompts=``, ``completions=`` and the data's columns by keyword.
        name: by convention ``module:qualname``.

    Example:
        >>> FunctionReward(lambda completions, **_: [1.0] * len(completions), "always one")(["a"], ["b"])
        [1.0]
    """

    function: Callable[..., list[float]]
    name: str

    @property
    def origins(self) -> frozenset[str]:
        """Itself: nothing is known of what a function learned from."""
        return frozenset({self.name})

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Call the function."""
        return self.function(prompts=prompts, completions=completions, **columns)


def as_reward(reward: Reward | Callable[..., list[float]]) -> Reward:
    """Return a reward as it is, and a plain function as a reward named ``module:qualname``.

    Args:
        reward: a reward or a function with TRL's signature.

    Raises:
        ConfigError: it is neither.

    Example:
        >>> def shouting(completions, **columns):
        ...     return [float(text.isupper()) for text in completions]
        >>> as_reward(shouting).name.endswith(":shouting")
        True
    """
    if isinstance(reward, type) or not callable(reward):
        raise ConfigError(
            given=f"{reward!r} as a reward",
            expected="a function (prompts, completions, **columns) -> list[float], or a reward object",
            hint="if it is a class, pass an instance of it",
        )
    if isinstance(reward, Reward):
        return reward
    named: Any = reward if inspect.isroutine(reward) else type(reward)
    return FunctionReward(reward, f"{named.__module__}:{named.__qualname__}")
