"""Policies side by side: the same prompts, seed and settings for all, scored by the reward and by judges.

It does not know what the policies are made of, nor how its result is shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from trimtab.decoding.answer import Answer
from trimtab.decoding.constraints import Constraints
from trimtab.decoding.request import Settings
from trimtab.decoding.search_plan import SearchPlan
from trimtab.errors import ConfigError
from trimtab.evaluation.metrics import distinct_n, mean_kl, mean_length, perplexity, repetition
from trimtab.evaluation.plain import plain
from trimtab.evaluation.player import LocalPlayer, Made, Player
from trimtab.policies.base import Policy
from trimtab.policies.vocabulary import Vocabulary
from trimtab.rewards import Reward, as_reward, check_independent, score, score_known
from trimtab.values import Constrained, PerToken, RewardValue, Sum
from trimtab.values.value import Value


@dataclass(frozen=True)
class Result:
    """What one policy's answers measured.

    Args:
        name: of the policy in the comparison.
        policy: the policy as an expression.
        reward: mean of the reward.
        judges: judge name to the mean of its scores; not a number where it had none.
        judged: judge name to its score of each answer; None where it had none.
        searched: whether answers were searched for.
        held: whether some had to say keywords.
        kl: KL(policy || base), in nats per token, exact unless ``estimated``. Where tokens were chosen among candidates
            it is that of each choice, with value, cuts and temperature; None for other searches and where keywords
            were held, since how far these as a whole are from the base is not measured.
        proposal_kl: the policy's own along the answers, without what a search chose by; ``kl`` where they were sampled.
            None where whole distributions were not seen and tokens were not drawn from the policy itself.
        estimated: whether KL is the mean of ``log pi(y) - log pi_base(y)`` over the sampled tokens: right on average,
            with the noise of sampling, and not computed from whole distributions.
        perplexity: of the answers under the base.
        distinct_2: share of different word pairs over all answers.
        repetition: mean share of repeated word triples within an answer.
        length: mean number of tokens an answer.
        tokens_per_second: tokens of the answers by wall-clock time of generation.
        proposed: tokens that were sampled for the answers, those of rejected chunks included.
        seconds: wall-clock time of generation.
        answers: n a prompt, next to each other, in the order of the prompts; their ``reference_log_probs`` and ``kl``
            are to the base of the comparison.
        rewards: of each answer.
    """

    name: str
    policy: str
    reward: float
    judges: Mapping[str, float]
    judged: Mapping[str, tuple[float | None, ...]]
    searched: bool
    held: bool
    kl: float | None
    proposal_kl: float | None
    estimated: bool
    perplexity: float
    distinct_2: float
    repetition: float
    length: float
    tokens_per_second: float
    proposed: int
    seconds: float
    answers: tuple[Answer, ...]
    rewards: tuple[float, ...]

    @property
    def unscored(self) -> dict[str, int]:
        """Judge to how many answers it had no score for."""
        return {judge: scores.count(None) for judge, scores in self.judged.items()}


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
    def estimated(self) -> bool:
        """Whether some KL is estimated from sampled tokens."""
        return any(result.estimated for result in self.results)

    @property
    def base(self) -> Result:
        """The result that the others are compared to."""
        return self.results[0]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; None stands for numbers that are not finite."""
        return {
            "reward": self.reward,
            "judges": list(self.judges),
            "prompts": list(self.prompts),
            "n": self.n,
            "settings": asdict(self.settings),
            "results": [plain(asdict(result)) for result in self.results],
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
    searches: Mapping[str, SearchPlan] | None = None,
    columns: Mapping[str, Sequence[object]] | None = None,
    keywords: Mapping[str, Sequence[Constraints | None]] | None = None,
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
        searches: name of a policy to how its answers are searched for; the others are sampled. Each of the n answers
            is the best of a search of its own, with its own random numbers, as each sample has its own.
        columns: further columns of the prompts, as many entries each; the reward and the judges receive them.
        keywords: name of a policy to the words that its answers must hold, one a prompt; the others are free.
        on_policy: called with each name before its answers are made.

    Returns:
        One result a policy, in their order.

    Raises:
        ConfigError: there is no policy, a search belongs to none, or a judge is not independent of the reward or of
            what answers are searched by.
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
    plans = searches or {}
    if unknown := [name for name in plans if name not in policies]:
        raise ConfigError(
            given=f"a search for {unknown[0]!r}", expected=f"one of {', '.join(policies)}", hint="check the name"
        )
    base = next(iter(policies.values())).reference if policies else None
    players = {
        name: LocalPlayer(policy, base, plans.get(name), (keywords or {}).get(name))
        for name, policy in policies.items()
        if base is not None
    }
    return compare_players(
        players,
        prompts,
        reward=reward,
        judges=judges,
        settings=settings,
        n=n,
        knobs=knobs,
        columns=columns,
        on_policy=on_policy,
    )


def compare_players(  # noqa: PLR0913 -- every argument by keyword
    players: Mapping[str, Player],
    prompts: Sequence[str],
    *,
    reward: Reward,
    judges: Sequence[Reward],
    settings: Settings,
    n: int = 1,
    knobs: Mapping[str, float] | None = None,
    columns: Mapping[str, Sequence[object]] | None = None,
    on_policy: Callable[[str], None] | None = None,
) -> Comparison:
    """Let players answer the same prompts one after the other, wherever they run, and measure the answers.

    Args:
        players: name to player; the first is the base.
        prompts: see :func:`compare`, like the others.
        reward: see there.
        judges: see there.
        settings: see there.
        n: see there.
        knobs: see there.
        columns: see there.
        on_policy: see there.

    Raises:
        ConfigError: there is no player, or a judge is not independent of the reward or of what answers are searched by.
        PromptError: a prompt is empty or too long.
        RewardError: the reward or a judge failed.
    """
    if not players:
        raise ConfigError(given="no policies", expected="at least one to evaluate", hint="pass the base")
    plans = [player.search for player in players.values() if player.search is not None]
    seen = [reward, *(each for plan in plans for each in _rewards_in(plan.value))]
    for each, judge in product(seen, judges):
        check_independent(each, judge)
    repeated = {key: [value for value in values for _ in range(n)] for key, values in (columns or {}).items()}
    results = []
    for name, player in players.items():
        if on_policy is not None:
            on_policy(name)
        made = player.make(prompts, settings, n, knobs or {})
        results.append(measure(name, str(player), made, (reward, judges), repeated))
    vocabulary = next(iter(players.values())).vocabulary
    names = tuple(judge.name for judge in judges)
    return Comparison(tuple(results), reward.name, names, tuple(prompts), n, settings, vocabulary)


def _rewards_in(value: Value) -> list[Reward]:
    """Return the rewards that a value asks."""
    match value:
        case RewardValue():
            return [as_reward(value.reward)]
        case Sum():
            return [each for _, term in value.terms for each in _rewards_in(term)]
        case Constrained():
            return [
                each for term in (value.primary, *(term for term, _ in value.constraints)) for each in _rewards_in(term)
            ]
        case PerToken():
            return _rewards_in(value.value)
        case _:
            return []


def measure(
    name: str,
    policy: str,
    made: Made,
    scorers: tuple[Reward, Sequence[Reward]],
    columns: Mapping[str, Sequence[object]],
) -> Result:
    """Score one policy's answers.

    Args:
        name: of the policy in the comparison.
        policy: whose answers, as an expression.
        made: the answers.
        scorers: the reward and the judges.
        columns: of the prompts, with an entry for each answer.

    Raises:
        RewardError: a scorer failed.
    """
    answers, (reward, judges) = made.answers, scorers
    texts = [answer.text for answer in answers]
    asked = [answer.prompt for answer in answers]
    rewards = score(reward, asked, texts, columns)
    judged = {judge.name: score_known(judge, asked, texts, columns).values for judge in judges}
    return Result(
        name=name,
        policy=policy,
        reward=_mean(rewards),
        judges={judge: _mean([each for each in scores if each is not None]) for judge, scores in judged.items()},
        judged=judged,
        searched=made.searched,
        held=made.held,
        kl=made.kl,
        proposal_kl=made.kl if made.estimated else mean_kl(answers),
        estimated=made.estimated,
        perplexity=perplexity([answer.reference_log_probs for answer in answers]),
        distinct_2=distinct_n(texts, 2),
        repetition=repetition(texts, 3),
        length=mean_length(answers),
        tokens_per_second=sum(len(answer.token_ids) for answer in answers) / max(made.seconds, 1e-9),
        proposed=made.proposed,
        seconds=made.seconds,
        answers=tuple(answers),
        rewards=tuple(rewards),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
