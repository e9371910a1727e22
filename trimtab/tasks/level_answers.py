"""Answers of steered and of prompted models, generated and told apart by the level judge."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from trimtab.decoding.answer import Answer
from trimtab.evaluation.level_results import Answered, Generated
from trimtab.policies.lm import LM
from trimtab.rewards.level import LEVELS, Domain, LevelJudge
from trimtab.tasks.level_points import Vectors, reach, steered
from trimtab.tasks.level_settings import GenerationSettings
from trimtab.tasks.levels import as_level, chat_prompt, level_prompt, queries, whole_sentences


@dataclass(frozen=True)
class _Writer:
    """Somebody who answers questions of a domain.

    Args:
        name: what results call the writer.
        wanted: what results say was wanted.
        lm: the model.
        prompts: one a question.
        knobs: at which the model answers.
    """

    name: str
    wanted: str
    lm: LM
    prompts: Sequence[str]
    knobs: Mapping[str, float]


def generated(
    base: LM, vectors: Vectors, domains: Sequence[Domain], settings: GenerationSettings, seed: int
) -> Generated:
    """Let every domain's vector at some coefficients, and prompts for every level, answer held-out questions.

    Args:
        base: a model with a chat template.
        vectors: by domain.
        domains: of the questions.
        settings: how many questions, which coefficients, and how answers are sampled.
        seed: of the sampling.
    """
    started = time.perf_counter()
    answered = tuple(
        _answered(domain, writer, settings, seed)
        for domain in domains
        for writer in _writers(base, vectors, domain, settings)
    )
    return Generated(answered=answered, seconds=time.perf_counter() - started)


def _writers(base: LM, vectors: Vectors, domain: Domain, settings: GenerationSettings) -> Iterator[_Writer]:
    asked = queries(domain, "test", settings.questions)
    shown = [chat_prompt(base, query) for query in asked]
    lm = steered(base, {domain: vectors[domain]}, reach(settings.lambdas))
    for amount in settings.lambdas:
        yield _Writer("vector", f"{amount:g}", lm, shown, {domain: amount})
    for level in LEVELS:
        yield _Writer("prompt", level, base.with_system(level_prompt(domain, level)), asked, {})
        yield _Writer("examples", level, as_level(base, domain, level), asked, {})


def _answered(domain: Domain, writer: _Writer, settings: GenerationSettings, seed: int) -> Answered:
    answers = writer.lm.generate(
        writer.prompts,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=seed,
        knobs=writer.knobs,
    )
    texts, judge = tuple(map(_whole, answers)), LevelJudge(domain)
    return Answered(
        domain=domain,
        writer=writer.name,
        wanted=writer.wanted,
        levels=tuple(judge.level(text) for text in texts),
        texts=texts,
        kl=sum(answer.mean_kl for answer in answers) / len(answers),
    )


def _whole(answer: Answer) -> str:
    """Cut an answer that ran out of tokens after a sentence."""
    return answer.text.strip() if answer.finish_reason == "end" else whole_sentences(answer.text)
