"""Policies side by side: the same prompts, seed and settings for all, scored by the reward and by judges.

It does not know what the policies are made of, nor how its result is shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.decoding.answer import Answer
from trimtab.decoding.generate import generate
from trimtab.decoding.request import Settings
from trimtab.errors import ConfigError
from trimtab.evaluation.metrics import distinct_n, mean_kl, mean_length, perplexity, perplexity_under, repetition
from trimtab.policies.base import Policy
from trimtab.policies.vocabulary import Vocabulary
from trimtab.rewards import Reward, check_independent, score


@dataclass(frozen=True)
class Result:
    """What one policy's answers measured.

    Args:
        name: of the policy in the comparison.
        policy: the policy as an expression.
        reward: mean of the reward.
        judges: judge name to the mean of its scores.
        kl: exact KL(policy || its reference), in nats per token.
        perplexity: of the answers under the base.
        distinct_2: share of different word pairs over all answers.
        repetition: mean share of repeated word triples within an answer.
        length: mean number of tokens an answer.
        tokens_per_second: generated tokens by wall-clock time of generation.
        answers: n a prompt, next to each other, in the order of the prompts.
        rewards: of each answer.
    """

    name: str
    policy: str
    reward: float
    judges: Mapping[str, float]
    kl: float
    perplexity: float
    distinct_2: float
    repetition: float
    length: float
    tokens_per_second: float
    answers: tuple[Answer, ...]
    rewards: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """Results of several policies on the same prompts; answers pair up by their place.

    Args:
        results: one a policy; the first is the base that the others are compared to.
        reward: name of the reward that was trained on.
        judges: names of the judges, which no training saw.
        prompts: what was answered.
        n: answers a prompt.
        settings: how answers were sampled.
        vocabulary: what spells the answers' tokens out.
    """

    results: tuple[Result, ...]
    reward: str
    judges: tuple[str, ...]
    prompts: tuple[str, ...]
    n: int
    settings: Settings
    vocabulary: Vocabulary

    @property
    def base(self) -> Result:
        """The result that the others are compared to."""
        return self.results[0]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "reward": self.reward,
            "judges": list(self.judges),
            "prompts": list(self.prompts),
            "n": self.n,
            "settings": asdict(self.settings),
            "results": [asdict(result) for result in self.results],
        }


def compare(  # noqa: PLR0913 -- every argument by keyword
    policies: Mapping[str, Policy],
    prompts: Sequence[str],
    *,
    reward: Reward,
    judges: Sequence[Reward],
    settings: Settings,
    n: int = 1,
    knobs: Mapping[str, float] | None = None,
    on_policy: Callable[[str], None] | None = None,
) -> Comparison:
    """Let several policies answer the same prompts, and measure the answers.

    Args:
        policies: name to policy; the first is the base.
        prompts: what to answer.
        reward: what the guides were trained on.
        judges: scorers that no training saw; their means are the result.
        settings: sampling, lengths and seed, the same for all.
        n: answers a prompt.
        knobs: values for the policies that have them; the others keep their defaults.
        on_policy: called with each name before its answers are sampled.

    Returns:
        One result a policy, in their order.

    Raises:
        ConfigError: there is no policy, or a judge is not independent of the reward.
        PromptError: a prompt is empty or too long.
        RewardError: the reward or a judge failed.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> from trimtab.rewards import Keywords, Length
        >>> base = Table.of({"": {"fine": 0.5, "bad": 0.5}}, name="base")
        >>> guide = Table.of({"": {"fine": 0.9, "bad": 0.1}}, name="guide")
        >>> found = compare(
        ...     {"base": base, "tailored": base * guide},
        ...     ["bad"],
        ...     reward=Length(4),
        ...     judges=[Keywords(("fine",))],
        ...     settings=Settings(max_new_tokens=4),
        ...     n=50,
        ... )
        >>> [round(result.kl, 2) for result in found.results]  # .9 ln 1.8 + .1 ln .2
        [0.0, 0.37]
    """
    if not policies:
        raise ConfigError(given="no policies", expected="at least one to evaluate", hint="pass the base")
    for judge in judges:
        check_independent(reward, judge)
    base = next(iter(policies.values())).reference
    results = []
    for name, policy in policies.items():
        if on_policy is not None:
            on_policy(name)
        started = time.perf_counter()
        answers = generate(policy, prompts, settings, n=n, knobs=_of(policy, knobs or {}))
        seconds = time.perf_counter() - started
        results.append(_measure(name, policy, base, answers, (reward, judges), seconds))
    return Comparison(
        tuple(results), reward.name, tuple(judge.name for judge in judges), tuple(prompts), n, settings, base.vocabulary
    )


def _of(policy: Policy, knobs: Mapping[str, float]) -> dict[str, float]:
    """Return the values of the knobs that a policy has."""
    return {knob.name: knobs[knob.name] for knob in policy.knobs if knob.name in knobs}


def _measure(
    name: str,
    policy: Policy,
    base: Policy,
    answers: Sequence[Answer],
    scorers: tuple[Reward, Sequence[Reward]],
    seconds: float,
) -> Result:
    """Measure one policy's answers."""
    reward, judges = scorers
    texts = [answer.text for answer in answers]
    asked = [answer.prompt for answer in answers]
    rewards = score(reward, asked, texts)
    measured_by_base = policy.reference == base
    return Result(
        name=name,
        policy=str(policy),
        reward=_mean(rewards),
        judges={judge.name: _mean(score(judge, asked, texts)) for judge in judges},
        kl=mean_kl(answers),
        perplexity=perplexity([answer.reference_log_probs for answer in answers])
        if measured_by_base
        else perplexity_under(base, answers),
        distinct_2=distinct_n(texts, 2),
        repetition=repetition(texts, 3),
        length=mean_length(answers),
        tokens_per_second=sum(len(answer.token_ids) for answer in answers) / max(seconds, 1e-9),
        answers=tuple(answers),
        rewards=tuple(rewards),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
