"""From the name or the specification of a reward, as it stands in a config file, to the reward."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from trimtab.assets.store import Progress, silent
from trimtab.errors import ConfigError
from trimtab.rewards.acceptability import Acceptability
from trimtab.rewards.cached import Cached
from trimtab.rewards.classifier import Classifier
from trimtab.rewards.clean_words import CleanWords
from trimtab.rewards.coherence import Coherence
from trimtab.rewards.combine import Product, Sum
from trimtab.rewards.coverage import Coverage
from trimtab.rewards.diversity import Diversity
from trimtab.rewards.grounded import Grounded
from trimtab.rewards.keywords import Keywords
from trimtab.rewards.length import Length
from trimtab.rewards.level import LevelReward
from trimtab.rewards.mild_words import MildWords
from trimtab.rewards.regex import Regex
from trimtab.rewards.repetition import Repetition
from trimtab.rewards.reward import Reward, as_reward
from trimtab.rewards.safe_answer import SafeAnswer
from trimtab.rewards.sentiment import Sentiment
from trimtab.rewards.toxicity import NonToxic

Spec = str | Mapping[str, Any]


def load_reward(spec: Spec, *, progress: Progress = silent, judges: Sequence[str] = ()) -> Reward:
    """Return the reward that a name or a specification describes.

    Args:
        spec: a built-in name (``"sentiment"``), a user's ``"module:function"``, or a mapping with ``name`` and options:
            ``{"name": "length", "target": 20}``. ``sum`` and ``product`` take ``parts``, a list of specifications, and
            ``cached`` takes ``reward``, one specification.
        progress: told what is going on while something is fetched or trained, one plain line at a time.
        judges: names that would have been found too, for the message where a judge is wanted.

    Raises:
        ConfigError: there is no such reward, or an option is wrong.

    Example:
        >>> spec = {"name": "sum", "parts": [{"name": "length", "target": 9}, "repetition"], "weights": [1, 0.5]}
        >>> load_reward(spec).name
        '1*length(9) + 0.5*repetition(3)'
    """
    options: dict[str, Any] = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    name = options.get("name")
    built_in: dict[str, Callable[..., Reward]] = {
        "sentiment": partial(Sentiment.load, progress=progress),
        "keywords": Keywords,
        "length": Length,
        "level": LevelReward,
        "repetition": Repetition,
        "regex": Regex,
        "classifier": Classifier.load,
        "non-toxic": partial(NonToxic.load, progress=progress),
        "clean-words": partial(CleanWords.load, progress=progress),
        "mild-words": MildWords.load,
        "coverage": Coverage,
        "acceptability": partial(Acceptability.load, progress=progress),
        "coherence": partial(Coherence.load, progress=progress),
        "diversity": Diversity,
        "safe-answer": partial(SafeAnswer.load, progress=progress),
        "grounded": partial(Grounded.load, progress=progress),
        "sum": Sum,
        "product": Product,
        "cached": Cached,
    }
    if isinstance(name, str) and name in built_in:
        if isinstance(options.get("parts"), (list, tuple)):
            options["parts"] = tuple(load_reward(part, progress=progress) for part in options["parts"])
        if "reward" in options:
            options["reward"] = load_reward(options["reward"], progress=progress)
        return build(built_in[name], options)
    if isinstance(name, str) and name.count(":") == 1 and len(options) == 1:
        return import_reward(name)
    raise ConfigError(
        given=f"the {'judge' if judges else 'reward'} {spec!r}",
        expected=f"one of {', '.join([*judges, *built_in])}, or module:function without options",
        hint='write "sentiment", "my_rewards:politeness", or {"name": "length", "target": 20}',
    )


def build(factory: Callable[..., Reward], options: Mapping[str, Any]) -> Reward:
    """Call what makes a reward or a judge with the options of a specification.

    Args:
        factory: takes the options by keyword.
        options: of the specification; ``name`` is not passed on.

    Raises:
        ConfigError: an option is unknown, missing or wrong.

    Example:
        >>> build(Length, {"name": "length", "goal": 20})
        Traceback (most recent call last):
        ...
        trimtab.errors.ConfigError: given: {'name': 'length', 'goal': 20} (missing a required argument: 'target')
        expected: the options target
        try: correct the options of length
    """
    arguments = {option: value for option, value in options.items() if option != "name"}
    signature = inspect.signature(factory)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        accepted = ", ".join(option for option in signature.parameters if option != "progress")
        raise ConfigError(
            given=f"{dict(options)} ({error})",
            expected=f"the options {accepted}" if accepted else "no options",
            hint=f"correct the options of {options['name']}",
        ) from error
    return factory(**arguments)


def import_reward(reference: str) -> Reward:
    """Import a user's reward; modules in the current directory are found first, as ``python -m`` finds them.

    Args:
        reference: ``module:name`` of a function or of a reward object.

    Raises:
        ConfigError: there is no such module or name, importing the module fails, or it is no reward.

    Example:
        >>> import_reward("my_rewards:politeness")  # doctest: +SKIP
    """
    module_name, _, name = reference.partition(":")
    # It stays on the path: the module may import its neighbours when it is called.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
        found = getattr(module, name)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ConfigError(
            given=f"the reward {reference!r} ({type(error).__name__}: {error})",
            expected=f"a module {module_name!r} with a function {name!r}, that imports without errors",
            hint=f"run it from the directory of {module_name}.py, or install the module",
        ) from error
    return as_reward(found)
