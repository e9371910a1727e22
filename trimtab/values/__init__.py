"""Scorers of prefixes, which a search asks what unfinished answers are worth."""

from trimtab.values.combine import PerToken, Sum
from trimtab.values.constrained import Constrained
from trimtab.values.log_likelihood import LogLikelihood
from trimtab.values.log_ratio import LogRatio
from trimtab.values.prefix_value import PrefixValue
from trimtab.values.reward_value import RewardValue
from trimtab.values.value import Chunk, Value, ValueState

__all__ = [
    "Chunk",
    "Constrained",
    "LogLikelihood",
    "LogRatio",
    "PerToken",
    "PrefixValue",
    "RewardValue",
    "Sum",
    "Value",
    "ValueState",
]
