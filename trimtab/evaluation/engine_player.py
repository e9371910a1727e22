"""A player on an engine, which runs its policy and the base, and gives no whole distributions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from trimtab.decoding.answer import Answer
from trimtab.decoding.generate import requests_of
from trimtab.decoding.request import Settings
from trimtab.decoding.sampling import Sampling
from trimtab.decoding.search_plan import SearchPlan
from trimtab.engines.base import AS_REFERENCE, MeteredEngine, answers_of
from trimtab.engines.search import search
from trimtab.evaluation.metrics import mean_log_ratio
from trimtab.evaluation.player import Made
from trimtab.policies.view import View
from trimtab.policies.vocabulary import Vocabulary


@dataclass(frozen=True)
class EnginePlayer:
    """Asks an engine for the answers of its policy, or of the base.

    The base's log-probs are read from the finished answers. KL is estimated from the sampled tokens, where they were
    drawn from the policy itself: a temperature, a cut, a shortest length or a search draw from something else, whose
    KL is not known.

    Args:
        policy: what answers, as an expression.
        vocabulary: of the base.
        engine: starts the engine, or returns it where it runs. It is called when answers are asked for.
        knobs: names of the policy's knobs; None asks the base.
        view: what the base sees around the prompt; nothing else can be asked so.
        search: how answers are searched for; they are sampled without one.
    """

    policy: str
    vocabulary: Vocabulary
    engine: Callable[[], MeteredEngine]
    knobs: frozenset[str] | None = None
    view: View = field(default_factory=View)
    search: SearchPlan | None = None

    def make(self, prompts: Sequence[str], settings: Settings, n: int, knobs: Mapping[str, float]) -> Made:
        """Sample n answers to each prompt, or search for each of them."""
        engine = self.engine()
        started = time.perf_counter()
        own = (
            AS_REFERENCE if self.knobs is None else {name: value for name, value in knobs.items() if name in self.knobs}
        )
        if self.search is None:
            requests = [
                replace(each, prompt=tuple(self.view.around(each.prompt)))
                for each in requests_of(engine.vocabulary, prompts, n, own)
            ]
            answers = answers_of(engine, requests, prompts, settings)
            proposed = sum(len(answer.token_ids) for answer in answers)
        else:
            # A prompt that comes n times is searched n times, each time with other random numbers.
            repeated = [prompt for prompt in prompts for _ in range(n)]
            found = search(engine, repeated, self.search, settings, knobs=own)
            answers, proposed = [each.best for each in found], sum(each.trace.tokens for each in found)
        seconds = time.perf_counter() - started
        answers = self._read_again(engine, answers)
        drawn = self.search is None and settings.sampling == Sampling() and settings.min_new_tokens == 0
        kl = mean_log_ratio(answers) if drawn else None
        return Made(answers, proposed, seconds, self.search is not None, kl, estimated=True)

    def _read_again(self, engine: MeteredEngine, answers: Sequence[Answer]) -> list[Answer]:
        """Return answers with what they cost under the base; its own cost there what they cost."""
        if self.knobs is None and self.view == View():
            return [replace(answer, reference_log_probs=answer.log_probs) for answer in answers]
        texts = [(engine.vocabulary.encode(answer.prompt), answer.token_ids) for answer in answers]
        return [
            replace(answer, reference_log_probs=costs)
            for answer, costs in zip(answers, engine.score(texts), strict=True)
        ]

    def __str__(self) -> str:
        return self.policy
