"""The guarded call of a reward: one finite number for each answer, or an error that names the reward, row and text."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real

from trimtab.errors import RewardError
from trimtab.rewards.reward import Reward

_SHOWN = 80  # characters of a text in an error message


def score(
    reward: Reward,
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: Mapping[str, Sequence[object]] | None = None,
) -> list[float]:
    """Call a reward and return one finite number for each completion.

    Args:
        reward: what scores.
        prompts: one for each of B rows.
        completions: the answers, B.
        columns: further columns of the data, B entries each.

    Returns:
        B finite numbers.

    Raises:
        RewardError: the reward raised, or returned NaN, an infinity, None, something else, or another number of values.

    Example:
        >>> from trimtab.rewards.length import Length
        >>> score(Length(target=2), ["a", "b"], ["two words", "one"])
        [1.0, 0.5]
    """
    if len(prompts) != len(completions):
        raise RewardError(
            given=f"{len(prompts)} prompts and {len(completions)} completions for the reward {reward.name!r}",
            expected="as many prompts as completions",
            hint="repeat each prompt for every completion of it",
        )
    if not completions:
        return []
    columns = columns or {}
    try:
        values = reward(prompts=list(prompts), completions=list(completions), **columns)
    except RewardError:  # a part of a combination has failed and said so
        raise
    except Exception as error:
        raise _raised(reward, prompts, completions, columns, error) from error
    return _finite(reward, completions, values)


def _finite(reward: Reward, completions: Sequence[str], values: object) -> list[float]:
    """Turn what a reward returned into floats, or say which row is wrong."""
    found: list[object] = list(values) if isinstance(values, Sequence) else [values]
    if not isinstance(values, Sequence) or len(found) != len(completions):
        size = f"{len(found)} values" if isinstance(values, Sequence) else f"a {type(values).__name__}"
        raise RewardError(
            given=f"the reward {reward.name!r} returned {size} for {len(completions)} completions",
            expected=f"a list of {len(completions)} finite numbers",
            hint="return exactly one number for each completion, as a list",
        )
    numbers = []
    for row, (value, completion) in enumerate(zip(found, completions, strict=True)):
        if not isinstance(value, Real) or not math.isfinite(value):
            raise RewardError(
                given=f"the reward {reward.name!r} gave {value!r} for row {row}: {_shorten(completion)}",
                expected="a finite number",
                hint="give a number to every completion, 0.0 if the reward does not apply to it",
            )
        numbers.append(float(value))
    return numbers


def _raised(
    reward: Reward,
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: Mapping[str, Sequence[object]],
    error: Exception,
) -> RewardError:
    """Describe a failed call; rows are tried one by one, which is worth a few calls now that the work has stopped."""
    place = f"{len(completions)} rows together, though not for any of them alone"
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        try:
            reward(
                prompts=[prompt], completions=[completion], **{name: [column[row]] for name, column in columns.items()}
            )
        except Exception:  # the caller chains the first error, of which this is the repetition
            place = f"row {row}: {_shorten(completion)}"
            break
    return RewardError(
        given=f"the reward {reward.name!r} raised {type(error).__name__}: {error}, for {place}",
        expected="a function (prompts, completions, **columns) -> list[float] that accepts every text",
        hint="repair the reward, or let it give 0.0 to what it cannot score; it has to accept all columns of the data",
    )


def _shorten(text: str) -> str:
    """Show the beginning of a text."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
