"""From the name or the specification of a reward, as it stands in a config file, to the reward."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from trimtab.assets.home import Progress, silent
from trimtab.errors import ConfigError
from trimtab.rewards.cached import Cached
from trimtab.rewards.classifier import Classifier
from trimtab.rewards.combine import Product, Sum
from trimtab.rewards.keywords import Keywords
from trimtab.rewards.length import Length
from trimtab.rewards.regex import Regex
from trimtab.rewards.repetition import Repetition
from trimtab.rewards.reward import Reward, as_reward
from trimtab.rewards.sentiment import Sentiment

Spec = str | Mapping[str, Any]


def load_reward(spec: Spec, *, progress: Progress = silent) -> Reward:
    """Return the reward that a name or a specification describes.

    Args:
        spec: a built-in name (``"sentiment"``), a user's ``"module:function"``, or a mapping with ``name`` and options:
            ``{"name": "length", "target": 20}``. ``sum`` and ``product`` take ``parts``, a list of specifications, and
            ``cached`` takes ``reward``, one specification.
        progress: told what is going on while something is fetched or trained, one plain line at a time.

    Raises:
        ConfigError: there is no such reward, or an option is wrong.

    Example:
        >>> spec = {"name": "sum", "parts": [{"name": "length", "target": 9}, "repetition"], "weights": [1, 0.5]}
        >>> load_reward(spec).name
        '1*length(9) + 0.5*repetition(3)'
    """
    options = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    name = options.get("name")
    built_in: dict[str, Callable[..., Reward]] = {
        "sentiment": partial(Sentiment.load, progress=progress),
        "keywords": Keywords,
        "length": Length,
        "repetition": Repetition,
        "regex": Regex,
        "classifier": Classifier.load,
        "sum": Sum,
        "product": Product,
        "cached": Cached,
    }
    if isinstance(name, str) and name in built_in:
        if isinstance(options.get("parts"), list):
            options["parts"] = tuple(load_reward(part, progress=progress) for part in options["parts"])
        if "reward" in options:
            options["reward"] = load_reward(options["reward"], progress=progress)
        return build(built_in[name], options)
    if isinstance(name, str) and name.count(":") == 1 and len(options) == 1:
        return import_reward(name)
    raise ConfigError(
        given=f"the reward {spec!r}",
        expected=f"one of {', '.join(built_in)}, or module:function without options",
        hint='write "sentiment", "my_rewards:politeness", or {"name": "length", "target": 20}',
    )
