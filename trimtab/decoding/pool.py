"""The row pool: one loop that prefills prompts, forks them into answers, steps every row and lets finished rows go.

Rows are admitted while others run, as many as fit. It knows token ids, not text, except for stop texts. Every row has
its own random numbers, so a row's result does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trimtab.decoding.answer import Answer, FinishReason
from trimtab.decoding.sampling import Sampling, pick, uniforms, warp
from trimtab.errors import ConfigError, PolicyError, PromptError
from trimtab.policies.base import Policy, init, needed_leaves, step
from trimtab.policies.state import State
from trimtab.policies.vocabulary import Vocabulary

MAX_ROWS = 64


@dataclass(frozen=True)
class Request:
    """One prompt and how many answers it wants.

    Args:
        prompt: token ids.
        n: number of answers.
        knobs: knob values that differ from their defaults.
        occurrence: how often the same prompt came before in this call; keeps repeated prompts apart.
    """

    prompt: tuple[int, ...]
    n: int = 1
    knobs: Mapping[str, float] = field(default_factory=dict)
    occurrence: int = 0


@dataclass(frozen=True)
class Settings:
    """What all rows of a pool share.

    Args:
        sampling: how tokens are picked.
        min_new_tokens: tokens before a row may end.
        max_new_tokens: tokens after which it must.
        stop: texts that end a row.
        stop_ids: token ids that end a row, beside the vocabulary's own.
        seed: of the random numbers.
        max_rows: rows that run at once.
        metered: whether log-probabilities under the reference and the KL to it are measured; without it they are 0.
    """

    sampling: Sampling = field(default_factory=Sampling)
    min_new_tokens: int = 0
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    seed: int = 0
    max_rows: int = MAX_ROWS
    metered: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.min_new_tokens <= self.max_new_tokens or self.max_new_tokens < 1:
            raise ConfigError(
                given=f"min_new_tokens={self.min_new_tokens}, max_new_tokens={self.max_new_tokens}",
                expected="at least one new token, and a minimum that is not above the maximum",
                hint="raise max_new_tokens",
            )
        if any(not text for text in self.stop):
            raise ConfigError(given="an empty stop text", expected="texts of at least one character", hint="drop it")


@dataclass
class Row:
    """One sequence being decoded: its place in the results, its random numbers, and what it has so far."""

    request: Request
    place: int
    uniforms: Tensor
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    reference_log_probs: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    finish: FinishReason | None = None


@dataclass(frozen=True)
class _Running:
    """The rows that are being decoded, and what the policies say about their next tokens."""

    rows: list[Row]
    state: State
    log_probs: list[Tensor]

    def pick(self, places: list[int], rows: list[Row]) -> _Running:
        """Put rows on these places, which may repeat."""
        index = torch.tensor(places)
        kept = [log_probs[index.to(log_probs.device)] for log_probs in self.log_probs]
        return _Running(rows, self.state.select(index), kept)

    def select(self, keep: list[int]) -> _Running:
        return self.pick(keep, [self.rows[i] for i in keep])

    def join(self, other: _Running) -> _Running:
        log_probs = [torch.cat(pair) for pair in zip(self.log_probs, other.log_probs, strict=True)]
        return _Running([*self.rows, *other.rows], self.state.join(other.state), log_probs)


def decode(policy: Policy, requests: Sequence[Request], settings: Settings) -> list[Row]:
    """Decode every request to its end.

    Args:
        policy: what to sample from.
        requests: prompts with their number of answers and knob values.
        settings: what all rows share.

    Returns:
        Finished rows: ``n`` a request, in the order of the requests.

    Raises:
        PromptError: a prompt does not fit in the context with its new tokens.
    """
    policies = [policy, policy.reference] if settings.metered and policy.reference != policy else [policy]
    queue = _Queue(policies, requests, settings)
    finished: list[Row] = []
    running: _Running | None = None
    with torch.inference_mode():
        while running is not None or queue.waiting:
            taken = len(running.rows) if running else 0
            # Joining caches copies them, so newcomers wait until half the pool is free.
            if queue.waiting and taken <= settings.max_rows // 2:
                admitted = queue.admit(settings.max_rows - taken)
                running = admitted if running is None else running.join(admitted)
            assert running is not None
            tokens = _pick(policy, running, settings)
            alive = [i for i, row in enumerate(running.rows) if row.finish is None]
            finished += [row for row in running.rows if row.finish is not None]
            if not alive:
                running = None
                continue
            if len(alive) < len(running.rows):
                running = running.select(alive)
                tokens = tokens[torch.tensor(alive, device=tokens.device)]
            log_probs, state = step(policies, running.state, tokens.unsqueeze(1))
            running = _Running(running.rows, state, [each.squeeze(1) for each in log_probs])
    return sorted(finished, key=lambda row: row.place)


def generate(
    policy: Policy,
    prompts: Sequence[str],
    settings: Settings,
    *,
    n: int,
    knobs: Mapping[str, float] | Sequence[Mapping[str, float]] | None,
) -> list[Answer]:
    """Answer texts with texts; :meth:`Policy.generate` documents the arguments."""
    if n < 1:
        raise ConfigError(given=f"n={n}", expected="at least one answer a prompt", hint="raise n")
    if not prompts:
        raise PromptError(given="no prompts", expected="at least one prompt", hint="pass a prompt")
    bound = [knobs or {}] * len(prompts) if knobs is None or isinstance(knobs, Mapping) else list(knobs)
    if len(bound) != len(prompts):
        raise ConfigError(
            given=f"{len(bound)} knob settings for {len(prompts)} prompts",
            expected="one mapping for all, or one a prompt",
            hint="make the list as long as the prompts",
        )
    encoded = [tuple(policy.vocabulary.encode(prompt)) for prompt in prompts]
    requests = [
        Request(ids, n, values, encoded[:i].count(ids))
        for i, (ids, values) in enumerate(zip(encoded, bound, strict=True))
    ]
    check_lengths(policy, encoded, settings.max_new_tokens, bound)
    rows = decode(policy, requests, settings)
    return [
        to_answer(row, prompts[place], policy.vocabulary, settings)
        for row, place in zip(rows, (i for i in range(len(prompts)) for _ in range(n)), strict=True)
    ]


def to_answer(row: Row, prompt: str, vocabulary: Vocabulary, settings: Settings) -> Answer:
    """Turn a finished row into an answer; its text ends before the stop that ended it."""
    assert row.finish is not None
    tokens = row.tokens[:-1] if row.tokens[-1] in settings.stop_ids else row.tokens
    text = vocabulary.decode(tokens)
    start = len(vocabulary.decode(row.tokens[: settings.min_new_tokens]))
    cuts = [at for at in (text.find(each, start) for each in settings.stop) if at >= 0] if row.finish == "stop" else []
    return Answer(
        prompt=prompt,
        text=text[: min(cuts)] if cuts else text,
        token_ids=tuple(row.tokens),
        log_probs=tuple(row.log_probs),
        reference_log_probs=tuple(row.reference_log_probs),
        kl=tuple(row.kl),
        finish_reason=row.finish,
    )


def check_lengths(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    knobs: Sequence[Mapping[str, float]] = ({},),
) -> None:
    """Refuse prompts that leave no room for the answer.

    Raises:
        PromptError: prompt and answer together are longer than a context.
    """
    leaves = needed_leaves([policy], knobs)
    limits = [leaf.context_length for leaf in leaves if leaf.context_length is not None]
    longest = max(len(prompt) for prompt in prompts)
    if limits and longest + max_new_tokens > min(limits):
        raise PromptError(
            given=f"a prompt of {longest} tokens with {max_new_tokens} new tokens",
            expected=f"at most {min(limits)} tokens together, the shortest context in the policy",
            hint="shorten the prompt or lower max_new_tokens",
        )


class _Queue:
    """Answers that wait for a place in the pool; each prompt is prefilled once, when its first answer gets one."""

    def __init__(self, policies: Sequence[Policy], requests: Sequence[Request], settings: Settings) -> None:
        self._policies, self._requests, self._settings = policies, requests, settings
        answers = [(owner, answer) for owner, request in enumerate(requests) for answer in range(request.n)]
        self.waiting = list(enumerate(answers))
        # All rows evaluate the same leaves, whenever they are admitted, so that their states can be joined.
        self._leaves = needed_leaves(policies, [request.knobs for request in requests])
        self._kept: tuple[int, _Running] | None = None

    def admit(self, free: int) -> _Running:
        """Take as many rows as fit, prefill the prompts that are new, and fork them."""
        batch, self.waiting = self.waiting[:free], self.waiting[free:]
        owners = [owner for _, (owner, _) in batch]
        unique = sorted(set(owners))
        filled = None if self._kept is None or self._kept[0] != unique[0] else self._kept[1]
        if fresh := [self._requests[owner] for owner in (unique if filled is None else unique[1:])]:
            log_probs, state = init(
                self._policies,
                [request.prompt for request in fresh],
                [request.knobs for request in fresh],
                leaves=self._leaves,
            )
            prefilled = _Running([], state, log_probs)
            filled = prefilled if filled is None else filled.join(prefilled)
        assert filled is not None
        split = bool(self.waiting) and self.waiting[0][1][0] == owners[-1]
        self._kept = (owners[-1], filled.pick([len(unique) - 1], [])) if split else None
        rows = [self._row(place, owner, answer) for place, (owner, answer) in batch]
        return filled.pick([unique.index(owner) for owner in owners], rows)

    def _row(self, place: int, owner: int, answer: int) -> Row:
        request, settings = self._requests[owner], self._settings
        draws = uniforms(settings.seed, request.prompt, request.occurrence, answer, settings.max_new_tokens)
        return Row(request, place, draws)


def _pick(policy: Policy, running: _Running, settings: Settings) -> Tensor:
    """Pick the next token of every row, write it down with what it cost, and mark the rows that are done."""
    vocabulary = policy.vocabulary
    log_probs, reference = running.log_probs[0], running.log_probs[-1]
    rows = running.rows
    allowed = _without_early_ends(log_probs, rows, vocabulary.end_ids.union(settings.stop_ids), settings.min_new_tokens)
    weights = warp(allowed, settings.sampling, _seen(rows, log_probs) if _penalised(settings) else None)
    if not bool(torch.isfinite(weights.amax(-1)).all()):
        raise PolicyError(
            given=f"NaN from {policy}, or a row without any token to pick",
            expected="a probability for every token, some of them above 0",
            hint="check the weights and their dtype; lower min_new_tokens if only an end is possible",
        )
    draws = torch.stack([row.uniforms[len(row.tokens)] for row in rows])
    tokens = pick(weights, draws, settings.sampling.temperature)
    chosen = log_probs.gather(1, tokens[:, None]).squeeze(1).tolist()
    if len(running.log_probs) == 1:
        nothing = [0.0] * len(rows)
        kept, kl = (chosen if settings.metered else nothing), nothing
    else:
        kept = reference.gather(1, tokens[:, None]).squeeze(1).tolist()
        kl = exact_kl(log_probs, reference[:, : log_probs.shape[1]]).tolist()
    for row, token, own, theirs, cost in zip(rows, tokens.tolist(), chosen, kept, kl, strict=True):
        row.tokens.append(token)
        row.log_probs.append(own)
        row.reference_log_probs.append(theirs)
        row.kl.append(cost)
        row.finish = _finish(row, vocabulary, settings)
    return tokens


def _without_early_ends(log_probs: Tensor, rows: Sequence[Row], ends: frozenset[int], minimum: int) -> Tensor:
    """Cut the tokens that would end a row before its minimum length."""
    early = [i for i, row in enumerate(rows) if len(row.tokens) < minimum]
    if not early or not ends:
        return log_probs
    allowed = log_probs.clone()
    allowed[torch.tensor(early)[:, None], torch.tensor(sorted(ends))] = -torch.inf
    return allowed


def _penalised(settings: Settings) -> bool:
    return settings.sampling.repetition_penalty != 1.0


def _seen(rows: Sequence[Row], log_probs: Tensor) -> Tensor:
    """Mark the tokens that each row already holds, shape (B, V)."""
    seen = torch.zeros_like(log_probs, dtype=torch.bool)
    for i, row in enumerate(rows):
        seen[i, [*row.request.prompt, *row.tokens]] = True
    return seen


def exact_kl(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """Return KL(policy || reference) = sum_y pi(y) (log pi(y) - log pi_ref(y)) over the last axis, in nats.

    Example:
        >>> half = torch.tensor([0.5, 0.5]).log()
        >>> round(exact_kl(torch.tensor([0.9, 0.1]).log(), half).item(), 4)  # .9 ln 1.8 + .1 ln .2
        0.3681
    """
    probs = log_probs.exp()
    gap = torch.where(probs > 0, log_probs - reference_log_probs, torch.zeros_like(log_probs))
    return (probs * gap).sum(-1)


def _finish(row: Row, vocabulary: Vocabulary, settings: Settings) -> FinishReason | None:
    """Say whether and why a row is done."""
    if row.tokens[-1] in vocabulary.end_ids:
        return "end"
    if row.tokens[-1] in settings.stop_ids:
        return "stop"
    if settings.stop:
        # A stop text of c characters ends within the last c tokens' text; some slack covers multi-token characters.
        window = max(len(row.tokens) - max(map(len, settings.stop)) - 8, settings.min_new_tokens)
        tail = vocabulary.decode(row.tokens[window:])
        if any(text in tail for text in settings.stop):
            return "stop"
    return "length" if len(row.tokens) == settings.max_new_tokens else None
