"""A question as work for an engine: what answers it, its prompts as tokens, how they are decoded."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
from pydantic import ValidationError

from trimtab.decoding.request import Request, Settings
from trimtab.decoding.sampling import Sampling
from trimtab.decoding.search_plan import SearchPlan, build_shape
from trimtab.decoding.shape import Shape
from trimtab.engines.abilities import Abilities
from trimtab.errors import ConfigError, ModelError
from trimtab.policies.chat import Turn, chat_text
from trimtab.policies.policy_file import Decoding
from trimtab.policies.search_settings import SearchSettings
from trimtab.policies.vocabulary import Vocabulary
from trimtab.serving.limits import Limits
from trimtab.serving.menu import Menu, Order
from trimtab.serving.questions import ChatQuestion, CompletionQuestion, Message, SearchWish, explained


@dataclass(frozen=True)
class Job:
    """What a question asks of an engine.

    Args:
        order: the policy and its knobs.
        requests: one a prompt.
        settings: how all are decoded.
        plan: how answers are searched for; None samples them.
        trace: whether all that a search tried is told.
        alternatives: log-probabilities in OpenAI's form, with so many likely tokens; None leaves them out.
        details: alternatives at each token in our own form; None leaves them out.
    """

    order: Order
    requests: tuple[Request, ...]
    settings: Settings
    plan: SearchPlan | None
    trace: bool
    alternatives: int | None
    details: int | None

    @property
    def answers(self) -> int:
        """How many there will be."""
        return sum(request.n for request in self.requests)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(request.prompt) for request in self.requests)


def job_of(question: CompletionQuestion | ChatQuestion, menu: Menu, abilities: Abilities) -> Job:
    """Check a question and turn it into work, before any work is done.

    Args:
        question: what a client has sent.
        menu: what there is.
        abilities: of the engine.

    Raises:
        UsageError: it asks for what is not there, what cannot be, or more than is allowed.
    """
    limits, steering = menu.limits, question.steering
    order = menu.order(question.model, steering.knobs, steering.policy)
    settings = _settings(question, menu.file.decoding, limits)
    n = question.n or 1
    _at_most("n", n, limits.n)
    wanted = [each for each in (question.alternatives, steering.details) if each is not None]
    alternatives = max(wanted, default=None)
    if alternatives is not None:
        _at_most("logprobs, top_logprobs and details", alternatives, limits.top_logprobs)
    plan, trace = None, False
    if steering.search is not None:
        wish = SearchWish() if steering.search is True else steering.search
        plan, trace = _plan(wish, menu, abilities), wish.trace
        if n > 1 or (alternatives or 0) > 0:
            raise ConfigError(
                given="n above 1, or likely tokens, beside a search",
                expected="one answer, with the log-probabilities of its own tokens",
                hint="leave n out, and ask for details: 0",
            )
    told = alternatives if plan is None and abilities.every_token else None
    if alternatives and not abilities.every_token:
        raise ConfigError(
            given=f"likely tokens at each step, of the engine {abilities.name}",
            expected="the log-probabilities of its own tokens, which is all that it tells: logprobs or details of 0",
            hint="serve with --engine local",
        )
    knobs = order.knobs if abilities.in_memory else order.told
    prompts = [_tokens(each, menu.vocabulary) for each in _prompts(question, menu.vocabulary, limits)]
    requests = tuple(
        Request(prompt, n, knobs, prompts[:i].count(prompt), None, told) for i, prompt in enumerate(prompts)
    )
    job = Job(order, requests, settings, plan, trace, question.alternatives, steering.details)
    _at_most("answers to all prompts", job.answers, limits.rows + limits.waiting)
    if alternatives is not None:
        _at_most("tokens and alternatives", job.answers * settings.max_new_tokens * (1 + alternatives), limits.told)
    return job


def turns_of(messages: Sequence[Message]) -> list[Turn]:
    """Return the turns of a chat."""
    return [Turn("system" if each.role == "developer" else each.role, each.text) for each in messages]


def as_text(messages: Sequence[Message], vocabulary: Vocabulary) -> str:
    """Return a chat as the models read it.

    Raises:
        ConfigError: they have no chat format, or it takes no such order of roles.
    """
    try:
        return chat_text(vocabulary, turns_of(messages))
    except ModelError as error:  # the client's mistake here, and no failure of the server
        raise ConfigError(error.given, error.expected, "POST /v1/completions continues a text") from error
    except jinja2.TemplateError as error:
        raise ConfigError(
            given=f"messages that the model's chat format refuses: {str(error)[:200]}",
            expected="roles in an order that it knows",
            hint="begin with the system, then user and assistant in turn",
        ) from error


def _prompts(
    question: CompletionQuestion | ChatQuestion, vocabulary: Vocabulary, limits: Limits
) -> list[str | list[int]]:
    if isinstance(question, ChatQuestion):
        return [as_text(question.messages, vocabulary)]
    _at_most("prompts", len(question.prompts), limits.prompts)
    return question.prompts


def _tokens(prompt: str | list[int], vocabulary: Vocabulary) -> tuple[int, ...]:
    return tuple(vocabulary.encode(prompt) if isinstance(prompt, str) else prompt)


def _settings(question: CompletionQuestion | ChatQuestion, own: Decoding, limits: Limits) -> Settings:
    """Return how answers are decoded: as the question says, or else as the policy file does."""
    asked = question.max_tokens
    if isinstance(question, ChatQuestion) and question.max_completion_tokens is not None:
        asked = question.max_completion_tokens
    longest = min(own.max_new_tokens, limits.max_tokens) if asked is None else asked
    _at_most("max_tokens", longest, limits.max_tokens)
    shortest = min(own.min_new_tokens, longest) if question.min_tokens is None else question.min_tokens
    top_k = own.top_k if question.top_k is None else max(question.top_k, 0)
    sampling = Sampling(
        temperature=own.temperature if question.temperature is None else question.temperature,
        top_k=top_k,
        top_p=own.top_p if question.top_p is None else question.top_p,
        min_p=own.min_p if question.min_p is None else question.min_p,
        repetition_penalty=(
            own.repetition_penalty if question.repetition_penalty is None else question.repetition_penalty
        ),
    )
    return Settings.of(
        sampling,
        min_new_tokens=shortest,
        max_new_tokens=longest,
        stop=_stops(question, own, limits),
        seed=secrets.randbits(31) if question.seed is None else question.seed % 2**63,
    )


def _stops(question: CompletionQuestion | ChatQuestion, own: Decoding, limits: Limits) -> list[str | int]:
    given, ids = question.stop, question.stop_token_ids or []
    texts = [given] if isinstance(given, str) else [*(given or ())]
    _at_most("stop texts and ids", len(texts) + len(ids), limits.stop)
    if long := [text for text in texts if len(text.encode("utf-8", "surrogatepass")) > limits.stop_bytes]:
        raise ConfigError(
            given=f"a stop text of {len(long[0])} characters",
            expected=f"at most {limits.stop_bytes} bytes",
            hint="stop at its beginning",
        )
    return [*(own.stop if given is None else texts), *ids]


def _plan(wish: SearchWish, menu: Menu, abilities: Abilities) -> SearchPlan:
    """Return how an answer is searched for: as the question says, or else as the policy file does."""
    value = menu.scorer(wish.value)
    file = menu.file.search
    defaults = {} if file is None else file.model_dump()
    if file is not None and wish.method not in (None, file.method):  # what is the other method's own stays with it
        defaults = {name: defaults[name] for name in ("beams", "branches", "chunk")}
    given = {name: each for name, each in wish.model_dump(exclude={"trace"}).items() if each is not None}
    if not {"method"} & {*defaults, *given}:
        given["method"] = "chunk_beam"
    try:
        settings = SearchSettings.model_validate({"value": "-", **defaults, **given})
    except ValidationError as error:
        raise explained(error) from error
    _at_most("beams", settings.beams, menu.limits.beams)
    _at_most("branches", settings.branches, menu.limits.branches)
    shape = build_shape(settings)
    if not isinstance(shape, Shape):
        raise ConfigError(
            given=f"the search {settings.method}, which chooses among tokens",
            expected="one that chooses among chunks",
            hint="`trimtab generate --search` has the others",
        )
    _at_most("answers that a search samples at once", shape.rows, menu.limits.rows)
    return SearchPlan(value, shape)


def _at_most(what: str, given: int, most: int) -> None:
    if given > most:
        raise ConfigError(given=f"{what}: {given}", expected=f"at most {most}", hint="ask for less")
