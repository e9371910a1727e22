"""Rollouts: answers sampled from the policy being trained, scored, as one typed value."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from trimtab.decoding.constraints import Constraints
from trimtab.decoding.generate import requests_of
from trimtab.decoding.pool import decode
from trimtab.decoding.progress import Plan
from trimtab.decoding.request import Request, Row, Settings
from trimtab.decoding.sampling import Sampling
from trimtab.errors import ConfigError
from trimtab.policies.base import Policy
from trimtab.policies.vocabulary import Vocabulary
from trimtab.rewards.inflections import inflections
from trimtab.rewards.reward import Reward
from trimtab.rewards.score import score
from trimtab.training.config import RolloutConfig
from trimtab.training.ranks import Ranks


@dataclass(frozen=True)
class Rollout:
    """One scored answer.

    Args:
        prompt: token ids of the prompt.
        completion: token ids of the answer, end token included.
        log_probs: of the answer's tokens under the policy that sampled them, in nats.
        reward: its score.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    log_probs: tuple[float, ...]
    reward: float

    @staticmethod
    def of(fields: Mapping[str, Any]) -> Rollout:
        """Read what ``asdict`` and JSON have made of one."""
        prompt, completion, log_probs = (tuple(fields[name]) for name in ("prompt", "completion", "log_probs"))
        return Rollout(prompt, completion, log_probs, float(fields["reward"]))


@dataclass(frozen=True)
class Block:
    """Answers side by side: token ids and mask, both (B, T); masked tokens are 0."""

    tokens: Tensor
    mask: Tensor

    @staticmethod
    def of(completions: Sequence[Sequence[int]]) -> Block:
        """Align completions to the left."""
        width = max(len(completion) for completion in completions)
        tokens = torch.tensor([[*completion, *[0] * (width - len(completion))] for completion in completions])
        lengths = torch.tensor([len(completion) for completion in completions])
        return Block(tokens, torch.arange(width) < lengths[:, None])


class Draw(Protocol):
    """What draws answers to requests from a policy."""

    def __call__(self, policy: Policy, requests: Sequence[Request], settings: Settings) -> list[Row]:
        """Return the answers to all requests, in their order, with log-probabilities under the policy."""
        ...


def draw_here(policy: Policy, requests: Sequence[Request], settings: Settings) -> list[Row]:
    """Draw answers by the local engine; not metered, since the loss measures the KL of the same tokens."""
    return decode(policy, requests, settings, metered=False)


@dataclass(frozen=True)
class Collector:
    """How answers are drawn and scored.

    Args:
        reward: scores answers.
        config: lengths and sampling settings.
        ranks: the processes that share the prompts out; each gets the rollouts of all.
        draw: who draws the answers.
    """

    reward: Reward
    config: RolloutConfig
    ranks: Ranks = field(default_factory=Ranks)
    draw: Draw = draw_here

    def collect(self, policy: Policy, rows: Sequence[dict[str, Any]], *, n: int, seed: int) -> list[Rollout]:
        """Sample n answers to every prompt and score them; see :func:`collect`."""
        prompts = [row["prompt"] for row in rows]
        requests = requests_of(policy.vocabulary, prompts, n, None, constraints_of(rows, self.config, seed))
        own = self.ranks.share(len(rows))
        mine: list[Rollout] = []
        with self.ranks.united():
            if own:
                settings = settings_of(self.config, seed)
                mine = self._scored(policy, [rows[i] for i in own], [requests[i] for i in own], settings)
        if self.ranks.count == 1:
            return mine
        return [Rollout.of(each) for part in self.ranks.gather([asdict(each) for each in mine]) for each in part]

    def _scored(
        self, policy: Policy, rows: Sequence[dict[str, Any]], requests: Sequence[Request], settings: Settings
    ) -> list[Rollout]:
        """Draw answers to requests, which belong to the rows, and score them."""
        drawn = self.draw(policy, requests, settings)
        repeated = [row for row, request in zip(rows, requests, strict=True) for _ in range(request.n)]
        texts = [policy.vocabulary.decode(answer.tokens) for answer in drawn]
        rewards = score(self.reward, [row["prompt"] for row in repeated], texts, columns_of(repeated))
        return [
            Rollout(answer.request.prompt, tuple(answer.tokens), tuple(answer.log_probs), value)
            for answer, value in zip(drawn, rewards, strict=True)
        ]


def collect(
    policy: Policy, rows: Sequence[dict[str, Any]], reward: Reward, config: RolloutConfig, *, n: int, seed: int
) -> list[Rollout]:
    """Sample n answers to every prompt and score them.

    Args:
        policy: what to sample from.
        rows: prompts, with the columns that the reward receives.
        reward: scores answers.
        config: lengths and sampling settings.
        n: answers a prompt.
        seed: of the sampling.

    Returns:
        ``n`` rollouts a prompt, next to each other, in the order of the prompts.

    Raises:
        RewardError: the reward raised or did not return one finite number an answer.
        ConfigError: a row lacks the keywords that constrained answers need, or they cannot be spelled.
    """
    return Collector(reward, config).collect(policy, rows, n=n, seed=seed)


@dataclass(frozen=True)
class Sampler:
    """Where an algorithm gets its answers from.

    Args:
        rows: training prompts with their columns.
        reward: scores answers.
        config: lengths and sampling settings.
        seed: of everything random; step n depends on (seed, n) alone, so a resumed run goes on as it would have.
        ranks: the processes that share the prompts out.
        draw: who draws the answers.
    """

    rows: Sequence[dict[str, Any]]
    reward: Reward
    config: RolloutConfig
    seed: int
    ranks: Ranks = field(default_factory=Ranks)
    draw: Draw = draw_here

    def order(self, number: int) -> random.Random:
        """Return the random numbers of a step."""
        return random.Random(f"{self.seed} {number}")

    def sample(self, policy: Policy, order: random.Random, *, prompts: int, n: int) -> list[Rollout]:
        """Sample n answers to each of some prompts, which are drawn without replacement."""
        rows = order.sample(self.rows, self.drawn(prompts))
        collector = Collector(self.reward, self.config, self.ranks, self.draw)
        return collector.collect(policy, rows, n=n, seed=order.getrandbits(63))

    def drawn(self, prompts: int) -> int:
        """Return how many prompts are drawn where so many are asked for."""
        return min(prompts, len(self.rows))


def columns_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return all columns but the prompt, as rewards receive them; None where a row lacks one.

    Example:
        >>> columns_of([{"prompt": "A film", "topic": "x"}, {"prompt": "The film"}])
        {'topic': ['x', None]}
    """
    names = dict.fromkeys(name for row in rows for name in row if name != "prompt")
    return {name: [row.get(name) for row in rows] for name in names}


def constraints_of(rows: Sequence[dict[str, Any]], config: RolloutConfig, seed: int) -> list[Constraints | None]:
    """Return the keywords of the prompts that are constrained this time, None for the others.

    The log-probabilities of constrained answers are those of the policy, as those of other answers are.

    Raises:
        ConfigError: some are to be constrained, and a row has no keywords.

    Example:
        >>> rows = [{"prompt": "a", "keywords": ["sun", ["go", "went"]]}]
        >>> constraints_of(rows, RolloutConfig(constrained=1.0), seed=0)[0].clauses
        (('sun',), ('go', 'went'))
    """
    if not config.constrained:
        return [None] * len(rows)
    found = []
    for row in rows:
        words = row.get("keywords")
        if not isinstance(words, list | tuple):
            raise ConfigError(
                given=f"the prompt {row['prompt']!r} with the keywords {words!r}",
                expected='a list of words in the column "keywords" of every row, since rollout.constrained is above 0',
                hint="add the column, or set rollout.constrained to 0",
            )
        forms = inflections if config.inflect else None
        found.append(Constraints.of(words, ordered=config.ordered, inflect=forms))
    drawn = torch.rand(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    return [words if number < config.constrained else None for words, number in zip(found, drawn, strict=True)]


def check_keywords(rows: Sequence[dict[str, Any]], config: RolloutConfig, vocabulary: Vocabulary) -> None:
    """Refuse data whose keywords constrained answers could not hold, before anything is sampled.

    Raises:
        ConfigError: a row has no keywords, or some that cannot be spelled.
    """
    for words in constraints_of(rows, config.model_copy(update={"constrained": float(config.constrained > 0)}), 0):
        if words is not None:
            Plan.of(words, vocabulary)


def settings_of(config: RolloutConfig, seed: int) -> Settings:
    """Return how answers are sampled in training."""
    return Settings(
        sampling=Sampling(temperature=config.temperature, top_p=config.top_p),
        min_new_tokens=config.min_new_tokens,
        max_new_tokens=config.max_new_tokens,
        seed=seed,
    )
