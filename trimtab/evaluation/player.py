"""Who answers in a comparison, and what comes of it; where policies run is a player's own business."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trimtab.decoding.answer import Answer
from trimtab.decoding.constraints import Constraints
from trimtab.decoding.generate import generate
from trimtab.decoding.request import Settings
from trimtab.decoding.search_plan import SearchPlan
from trimtab.evaluation.metrics import mean_kl, measured_from
from trimtab.policies.base import Policy
from trimtab.policies.vocabulary import Vocabulary


@dataclass(frozen=True)
class Made:
    """Answers of one player, and how they came about.

    Args:
        answers: n a prompt, next to each other; their ``reference_log_probs`` and ``kl`` are to the base of the
            comparison.
        proposed: tokens that were sampled for them.
        seconds: wall-clock time.
        searched: whether they were searched for.
        kl: how far what chose them is from the base, in nats a token; None where that is not known.
        held: whether some had to say keywords.
        estimated: whether KL is not computed from whole distributions, but estimated from the sampled tokens alone.
    """

    answers: Sequence[Answer]
    proposed: int
    seconds: float
    searched: bool
    kl: float | None
    held: bool = False
    estimated: bool = False


class Player(Protocol):
    """Something that answers prompts."""

    @property
    def vocabulary(self) -> Vocabulary:
        """What spells its tokens out."""
        ...

    @property
    def search(self) -> SearchPlan | None:
        """How its answers are searched for; they are sampled without one."""
        ...

    def make(self, prompts: Sequence[str], settings: Settings, n: int, knobs: Mapping[str, float]) -> Made:
        """Answer.

        Args:
            prompts: texts.
            settings: sampling, lengths and seed.
            n: answers a prompt. Each is the best of a search of its own, where they are searched for.
            knobs: values for knobs; those that it has not are somebody else's.
        """
        ...

    def __str__(self) -> str:
        """Return the policy as an expression."""
        ...


@dataclass(frozen=True)
class LocalPlayer:
    """A policy in this process.

    Args:
        policy: who answers.
        base: what its answers are measured from.
        search: how answers are searched for; they are sampled without one.
        keywords: words that the answers must hold, one a prompt; None leaves them free.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> fair, loaded = (Table.of({"": {"heads": p, "tails": 1 - p}}) for p in (0.5, 0.9))
        >>> round(LocalPlayer(loaded, fair).make(["heads"], Settings(max_new_tokens=2), 1, {}).kl, 3)
        0.368
    """

    policy: Policy
    base: Policy
    search: SearchPlan | None = None
    keywords: Sequence[Constraints | None] | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """The policy's."""
        return self.policy.vocabulary

    def make(self, prompts: Sequence[str], settings: Settings, n: int, knobs: Mapping[str, float]) -> Made:
        """Sample n answers to each prompt, or search for each of them."""
        started = time.perf_counter()
        held = any(each is not None for each in self.keywords or ())
        own = {knob.name: knobs[knob.name] for knob in self.policy.knobs if knob.name in knobs}
        kl: float | None
        if self.search is None:
            answers = generate(self.policy, prompts, settings, n=n, knobs=own, keywords=self.keywords)
            # What the words forced is not in the KL of the policy.
            proposed, kl = sum(len(answer.token_ids) for answer in answers), None if held else mean_kl(answers)
        else:
            # A prompt that comes n times is searched n times, each time with other random numbers.
            found = self.search.find(self.policy, [prompt for prompt in prompts for _ in range(n)], settings, own)
            answers, proposed = [each.best for each in found], sum(each.trace.tokens for each in found)
            steps = [step for each in found for step in each.kl]
            kl = sum(steps) / len(steps) if steps else None
        seconds = time.perf_counter() - started
        if self.policy.reference != self.base:
            answers = measured_from(self.base, self.policy, answers, own)
            kl = None if self.search is not None or kl is None else mean_kl(answers)
        return Made(answers, proposed, seconds, self.search is not None, kl, held)

    def __str__(self) -> str:
        return str(self.policy)
