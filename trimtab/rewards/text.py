"""What of an answer is scored, and how it is cut into words: shared by the rewards that look at the text."""

import re
from typing import Literal

from trimtab.errors import ConfigError

Scope = Literal["completion", "text"]

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")


def scoped(scope: Scope, prompts: list[str], completions: list[str]) -> list[str]:
    """Return what a scope covers: the completions alone, or each prompt with its completion.

    Args:
        scope: ``"completion"`` or ``"text"``.
        prompts: B prompts.
        completions: B completions, with their leading space where they have one.

    Returns:
        B texts.

    Raises:
        ConfigError: there is no such scope.

    Example:
        >>> scoped("text", ["The film"], [" was fun"])
        ['The film was fun']
    """
    match scope:
        case "completion":
            return completions
        case "text":
            return [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        case _:
            raise ConfigError(given=f"scope={scope!r}", expected="completion or text", hint='scope="completion"')


def words(text: str) -> list[str]:
    """Return the words of a text in lower case; every punctuation mark is a word.

    Args:
        text: any text.

    Example:
        >>> words("It's Great!!")
        ["it's", 'great', '!', '!']
    """
    return _WORD.findall(text.lower())
