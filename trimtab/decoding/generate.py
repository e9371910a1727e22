"""From texts to answers: encodes prompts, decodes them in a pool, and turns finished rows into texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimtab.decoding.answer import Answer
from trimtab.decoding.constraints import Constraints, for_prompts
from trimtab.decoding.drafters import Draft
from trimtab.decoding.pool import decode
from trimtab.decoding.request import Request, Row, Settings
from trimtab.decoding.stops import cut
from trimtab.errors import ConfigError, PromptError
from trimtab.policies.base import Policy
from trimtab.policies.vocabulary import Vocabulary


def generate(  # noqa: PLR0913 -- what Policy.generate documents
    policy: Policy,
    prompts: Sequence[str],
    settings: Settings,
    *,
    n: int,
    knobs: Mapping[str, float] | Sequence[Mapping[str, float]] | None,
    keywords: Constraints | Sequence[Constraints | None] | None = None,
    draft: Draft = None,
    draft_tokens: int | None = None,
) -> list[Answer]:
    """Answer texts with texts; :meth:`Policy.generate` documents the arguments."""
    requests = requests_of(policy.vocabulary, prompts, n, knobs, keywords)
    rows = decode(policy, requests, settings, draft=draft, draft_tokens=draft_tokens)
    return [
        to_answer(row, prompts[place], policy.vocabulary, settings)
        for row, place in zip(rows, (i for i in range(len(prompts)) for _ in range(n)), strict=True)
    ]


def requests_of(
    vocabulary: Vocabulary,
    prompts: Sequence[str],
    n: int,
    knobs: Mapping[str, float] | Sequence[Mapping[str, float]] | None,
    keywords: Constraints | Sequence[Constraints | None] | None = None,
) -> list[Request]:
    """Turn texts into requests for n answers each.

    Raises:
        PromptError: there are no prompts, or one is empty.
        ConfigError: there are not as many knob settings, or keywords, as prompts.
    """
    if not prompts:
        raise PromptError(given="no prompts", expected="at least one prompt", hint="pass a prompt")
    bound = [knobs or {}] * len(prompts) if knobs is None or isinstance(knobs, Mapping) else list(knobs)
    if len(bound) != len(prompts):
        raise ConfigError(
            given=f"{len(bound)} knob settings for {len(prompts)} prompts",
            expected="one mapping for all, or one a prompt",
            hint="make the list as long as the prompts",
        )
    encoded = [tuple(vocabulary.encode(prompt)) for prompt in prompts]
    return [
        Request(ids, n, values, encoded[:i].count(ids), words)
        for i, (ids, values, words) in enumerate(zip(encoded, bound, for_prompts(keywords, len(prompts)), strict=True))
    ]


def to_answer(row: Row, prompt: str, vocabulary: Vocabulary, settings: Settings) -> Answer:
    """Turn a finished row into an answer; its text ends before the stop that ended it."""
    tokens = row.tokens[:-1] if row.tokens and row.tokens[-1] in settings.stop_ids else row.tokens
    end = cut(vocabulary, settings.stop, tokens, settings.min_new_tokens) if row.finish == "stop" else None
    return Answer(
        prompt=prompt,
        text=vocabulary.decode(tokens)[:end],
        token_ids=tuple(row.tokens),
        log_probs=tuple(row.log_probs),
        reference_log_probs=tuple(row.reference_log_probs),
        kl=tuple(row.kl),
        finish_reason=row.finish,
        covered=tuple(row.covered),
        unmet=row.unmet,
        details=row.details,
    )
