"""How tokens are chosen among candidates with a value: the settings as a value, and named methods that return one.

At every step the policy's k likeliest next tokens of each row are candidates, and ``log pi(v) + weight * V(prefix, v)``
decides among them. The policy runs one row a prompt, whatever k is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.policies.vocabulary import Vocabulary
from trimtab.values.value import Value


@dataclass(frozen=True)
class Candidates:
    """The settings of a token-wise search.

    A token v is drawn from ``softmax((log pi(v) + weight * V(prefix, v)) / temperature)`` over the k candidates;
    temperature 0 takes the best. Temperature and the cuts (top-k, top-p, min-p, penalty, minimum length) are those of
    :func:`~trimtab.decoding.search.search` and act on the policy as in :meth:`Policy.generate`; the k likeliest of what
    they leave are the candidates. So weight 0 is sampling with ``top_k=k``, with the same random numbers. A constant
    that is added to all values of a row, such as a centre, changes nothing.

    Args:
        top_k: candidates a row, k; None for all tokens of the vocabulary.
        weight: what the value is multiplied by; in units of 1 / value, it gives nats.
        clamp: lowest and highest value that counts; the reported scores are not clamped.

    Raises:
        ConfigError: a setting is out of its range.

    Example:
        >>> from trimtab.decoding.search import search
        >>> from trimtab.policies.toy import Table
        >>> from trimtab.values import RewardValue
        >>> coin = Table.of({"": {"heads": 0.4, "tails": 0.6}})
        >>> heads = RewardValue(lambda completions, **_: [float(text.endswith("heads")) for text in completions])
        >>> found = search(coin, "tails", heads, Candidates(top_k=2), temperature=0, max_new_tokens=2)
        >>> found[0].best.text  # log 0.4 + 1 is above log 0.6
        'heads heads'
        >>> print(found[0].trace)
        > +1.000 'heads'
          = +1.000 'heads'
          x +0.000 'tails'
        x +0.000 'tails'
    """

    top_k: int | None = 10
    weight: float = 1.0
    clamp: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(
                given=f"k={self.top_k} candidates", expected="at least 1, or None for all tokens", hint="raise k"
            )
        if not math.isfinite(self.weight):
            raise ConfigError(given=f"weight={self.weight}", expected="a finite number", hint="change the weight")
        if self.clamp is not None and not self.clamp[0] < self.clamp[1]:
            raise ConfigError(given=f"clamp={self.clamp}", expected="a lower and a higher number", hint="swap them")

    @property
    def rows(self) -> int:
        """Rows of one prompt that the policy runs at once."""
        return 1

    def check(self, vocabulary: Vocabulary, value: Value) -> None:
        """Refuse more candidates than there are tokens, and values that say nothing of unfinished answers.

        Raises:
            ConfigError: it is one of these.
        """
        if self.top_k is not None and self.top_k > vocabulary.size:
            raise ConfigError(
                given=f"k={self.top_k} candidates out of {vocabulary.size} tokens",
                expected=f"at most {vocabulary.size}, or None for all of them",
                hint="lower k",
            )
        if value.granularity == "answer":
            raise ConfigError(
                given="a search among candidate tokens by a value of finished answers",
                expected="a value that scores every prefix",
                hint="search with best_of_n, or let a RewardValue score prefixes (finished_only=False)",
            )

    def bonus(self, values: Tensor) -> Tensor:
        """Return what values add to log-probabilities, in nats."""
        if self.weight == 0:
            return torch.zeros_like(values)  # 0 * -inf would be NaN
        bounded = values if self.clamp is None else values.clamp(*self.clamp)
        return self.weight * bounded


def args(k: int | None = 10, weight: float = 1.0) -> Candidates:
    """Add a reward of the prefix to the k likeliest tokens.

    At temperature 0 it is ARGS-greedy, above it ARGS-stochastic.

    Reference: Khanov et al. (2024), ARGS: Alignment as Reward-Guided Search. There the reward is added to logits, which
    differ from log-probabilities by a constant a row and so choose the same; here answers may end.
    """
    return Candidates(k, weight)


def fudge(k: int | None = 200, weight: float = 1.0) -> Candidates:
    """Condition on an attribute a by Bayes' rule, ``pi(v | prefix, a) ~ pi(v | prefix) P(a | prefix, v)^weight``.

    The value is ``log P(a | prefix)``, in nats, not the probability. With weight 1, all tokens, and a classifier that
    is right about every prefix, answers have exactly the policy's distribution given the attribute.

    Reference: Yang and Klein (2021), FUDGE. There the ten likeliest of the result are sampled from; here there is no
    second cut.
    """
    return Candidates(k, weight)


def rad(k: int | None = 20, weight: float = 10.0) -> Candidates:
    """Add a reward of the prefix, clamped to 0..1, to the k likeliest tokens.

    Reference: Deng and Raffel (2023), Reward-Augmented Decoding.
    """
    return Candidates(k, weight, clamp=(0.0, 1.0))


def cd(k: int | None = None, weight: float = 1.0) -> Candidates:
    """Tilt the policy by the expected reward of the prefix, ``pi(v) exp(weight V(prefix, v))``: token-wise.

    Over all tokens and with a :class:`~trimtab.values.PrefixValue` this samples ``policy * value.leaf ** weight``. A
    value that has to read every candidate wants a k.

    Reference: Mudgal et al. (2024), Controlled Decoding; :func:`~trimtab.decoding.shape.blockwise` is its other form.
    """
    return Candidates(k, weight)


def vas(k: int | None = 20, weight: float = 3.0) -> Candidates:
    """Tilt the policy by a value of state and action, ``pi(v) exp(weight Q(prefix, v))``.

    Reference: Han et al. (2024), Value Augmented Sampling. There the mean of the candidates' values is taken off, which
    is a constant a row and changes no probability; it is left out here.
    """
    return Candidates(k, weight)
