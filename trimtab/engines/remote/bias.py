"""An engine that steers by bias: the endpoint samples every token under a bias that is computed here.

    base * steering, steering = (guide / untuned) ** w: for one token the log-weights of the steering are the bias

For endpoints that give text alone. It is an engine and no policy, since nobody here learns the base's probabilities: no
KL, no covered mass, no other policy on top. Exact but for the tokens that the endpoint lets no bias name.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from trimtab.decoding.answer import FinishReason
from trimtab.decoding.generate import to_answer
from trimtab.decoding.queue import check_lengths
from trimtab.decoding.request import Request, Row, Settings
from trimtab.decoding.sampling import seed_of
from trimtab.decoding.stops import StopTexts
from trimtab.engines.abilities import REMOTE_BIAS, Abilities
from trimtab.engines.base import Update
from trimtab.engines.remote.capabilities import Capabilities
from trimtab.engines.remote.client import Client, Refused, client_of
from trimtab.engines.remote.completions import Completions, Said
from trimtab.engines.remote.listing import Listing, list_biases
from trimtab.engines.remote.meter import Meter
from trimtab.engines.remote.probe import BIASES, probe
from trimtab.errors import ConfigError, EndpointError, TrimtabError
from trimtab.policies.advance import combine, every_leaf, feed, prefill
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.knob import bind
from trimtab.policies.partial import refuse_partial
from trimtab.policies.state import State
from trimtab.policies.vocabulary import Vocabulary


@dataclass
class _Open:
    """An answer under way."""

    ticket: int
    request: Request
    settings: Settings
    number: int
    seeds: list[int]
    tokens: list[int] = field(default_factory=list)
    listed: list[float] = field(default_factory=list)

    @property
    def prefix(self) -> tuple[int, ...]:
        """All that the next token follows."""
        return (*self.request.prompt, *self.tokens)


@dataclass(frozen=True)
class _Steering:
    """Where the models that run here stand, a row an answer: their state, and logits of the next token, (N, V) each."""

    state: State
    said: dict[Leaf, Tensor]

    @staticmethod
    def of(leaves: list[Leaf], policy: Policy, requests: list[Request]) -> _Steering:
        """Feed prompts, and fork each into its answers."""
        knobs = bind(policy.knobs, [request.knobs for request in requests])
        said, state = prefill(leaves, [request.prompt for request in requests], knobs)
        here = _Steering(state, {leaf: logits[:, -1] for leaf, logits in said.items()})
        return here.select([i for i, request in enumerate(requests) for _ in range(request.n)])

    def select(self, rows: list[int]) -> _Steering:
        """Keep these rows, in this order."""
        return _Steering(self.state.select(rows), {leaf: logits[rows] for leaf, logits in self.said.items()})

    def join(self, other: _Steering) -> _Steering:
        """Append the rows of another."""
        said = {leaf: torch.cat([logits, other.said[leaf]]) for leaf, logits in self.said.items()}
        return _Steering(self.state.join(other.state), said)

    def fed(self, tokens: list[tuple[int, ...]]) -> _Steering:
        """Feed every row its new tokens, at least one each; what is a row's end is no token of the text."""
        counts = torch.tensor([len(row) for row in tokens])
        width = int(counts.max())
        said, state = feed(self.state, torch.tensor([[*row, *[0] * (width - len(row))] for row in tokens]))
        last = {leaf: logits[torch.arange(len(tokens)), counts - 1] for leaf, logits in said.items()}
        return _Steering(state.rollback(self.state.lengths + counts), last)

    def listings(self, policy: Policy, count: int) -> list[Listing]:
        """Return the bias for the next token of every row."""
        said = {leaf: logits.unsqueeze(1) for leaf, logits in self.said.items()}
        (weights,) = combine([policy], said, self.state.knobs)
        size = weights.shape[-1]
        likely = torch.stack([logits[..., :size].softmax(-1).to(weights.device) for logits in self.said.values()])
        return list_biases(weights.squeeze(1), likely.mean(0), count)


class BiasEngine:
    """Answers requests with ``base * steering``, where the base is behind an endpoint that takes a bias.

    One request a token and answer; all answers go on a token at a time, as many requests at once as the client's limits
    allow. ``Answer.listed`` says for each token how much of the steering the bias could list; 1 is exact. Answers have
    no log-probabilities and no KL, and none are streamed. Temperature and top-p act at the endpoint, after the bias.

    Args:
        endpoint: where the routes begin, or a client of your own.
        model: the model's name there.
        steering: what the base is multiplied by, such as ``(guide / untuned) ** tt.Knob("w")``; its tokens have to be
            the model's.
        key: name of the environment variable that holds the key; None sends none.
        m: tokens that a bias names; by default as many as the endpoint takes, at most 1024.
        rows: answers that go on together, at most, or those of one request.

    Raises:
        ConfigError: the address, m or the key is wrong.
        ModelError: the endpoint does not know the model.
        VocabularyError: the endpoint's ids mean other tokens than the steering's.
        UsageError: the steering is itself behind an endpoint.
        EndpointError: the endpoint is down, slow or overloaded, cannot continue a text, or obeys no bias on m tokens.

    Example:
        >>> import httpx2
        >>> from trimtab.engines import generate
        >>> from trimtab.engines.remote.toy import ToyEndpoint
        >>> from trimtab.policies.toy import Table
        >>> base = Table.of({"": {"a": 0.6, "b": 0.4}})
        >>> guide, untuned = (Table.of({"": {"a": p, "b": 1 - p}}, name=f"p{p}") for p in (0.1, 0.5))
        >>> client = Client("http://toy/v1", transport=httpx2.MockTransport(ToyEndpoint(base, most=0)))
        >>> engine = BiasEngine(client, "toy", guide / untuned)
        >>> (answer,) = generate(engine, ["a"], Settings(replace(Settings().sampling, temperature=0), max_new_tokens=2))
        >>> answer.text, answer.listed  # 0.6 * 0.1 : 0.4 * 0.9
        ('b b', (1.0, 1.0))

    Reference: Lu et al. (2023), Inference-Time Policy Adapters, and Liu et al. (2024), Tuning Language Models by Proxy,
    re-rank log-probabilities that came back; here none have to.
    """

    def __init__(
        self,
        endpoint: str | Client,
        model: str,
        steering: Policy,
        *,
        key: str | None = None,
        m: int | None = None,
        rows: int = 64,
    ) -> None:
        refuse_partial(steering, "as what steers")
        if rows < 1:
            raise ConfigError(given=f"rows={rows}", expected="at least 1", hint="raise it")
        client = client_of(endpoint, key)
        self._policy, self._leaves, self._rows = steering, every_leaf([steering]), rows
        self._completions = Completions(client, steering.vocabulary, probe(client, model, steering.vocabulary))
        self._m = _usable(self._completions.can, steering.vocabulary, m)
        self._stops = StopTexts(steering.vocabulary)
        self._waiting: deque[list[_Open]] = deque()
        self._running: list[_Open] = []
        self._here: _Steering | None = None
        self._cancelled: list[_Open] = []
        self._tickets = 0

    @property
    def m(self) -> int:
        """Tokens that a bias names."""
        return self._m

    @property
    def abilities(self) -> Abilities:
        """Those of an endpoint that takes a bias on m tokens; stop texts are looked for here."""
        return replace(REMOTE_BIAS, biases=self._m, stops=True)

    @property
    def capabilities(self) -> Capabilities:
        """What the endpoint can do."""
        return self._completions.can

    @property
    def meter(self) -> Meter:
        """What its client has used so far, the probe included."""
        return self._completions.client.meter

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens of the steering and of the model."""
        return self._policy.vocabulary

    @property
    def busy(self) -> bool:
        """Whether answers are still to come."""
        return bool(self._running or self._waiting or self._cancelled)

    def submit(self, request: Request, settings: Settings, *, stream: bool = False) -> int:
        """Take a request on.

        Raises:
            ConfigError: a setting that endpoints lack, or keywords.
            KnobError: a knob value is unknown or out of range.
            PromptError: the prompt has no tokens, or does not fit.
            PolicyError: with these knob values nothing steers; the plain base is what ``RemoteEngine`` answers with.
        """
        self._completions.check(request, settings)
        check_lengths(self._leaves, [request.prompt], settings.max_new_tokens)
        nothing = {leaf: torch.zeros((1, 1, leaf.vocabulary.size)) for leaf in self._leaves}
        combine([self._policy], nothing, bind(self._policy.knobs, [request.knobs]))
        ticket, self._tickets = self._tickets, self._tickets + 1
        answers = []
        for number in range(request.n):
            key = seed_of(settings.seed, request.prompt, request.occurrence, number)
            seeds = np.random.Generator(np.random.Philox(key)).integers(2**31, size=settings.max_new_tokens).tolist()
            answers.append(_Open(ticket, request, settings, number, seeds))
        self._waiting.append(answers)
        return ticket

    def cancel(self, ticket: int) -> None:
        """Let a request's answers go."""
        self._cancelled += [each for answers in self._waiting for each in answers if each.ticket == ticket]
        self._waiting = deque(answers for answers in self._waiting if answers[0].ticket != ticket)
        self._cancelled += [each for each in self._running if each.ticket == ticket]
        self._keep([i for i, each in enumerate(self._running) if each.ticket != ticket])

    def step(self) -> list[Update]:
        """Let every answer go on by a token."""
        updates = [self._close(each, "cancelled") for each in self._cancelled]
        self._cancelled = []
        with torch.inference_mode():
            self._admit()
            if self._here is None:
                return updates
            listings = self._here.listings(self._policy, self._m)
            pairs = list(zip(self._running, listings, strict=True))
            told = self._completions.client.map(lambda pair: self._ask(*pair), pairs)
            new, alive = [], []
            for i, (answer, listing, said) in enumerate(zip(self._running, listings, told, strict=True)):
                finish = self._take(answer, listing, said)
                if finish is None and isinstance(said, Said):
                    new.append(said.ids)
                    alive.append(i)
                elif finish is not None:
                    updates.append(self._close(answer, finish, said if isinstance(said, TrimtabError) else None))
            self._keep(alive)
            self._here = self._here.fed(new) if self._here is not None else None
        return updates

    def _admit(self) -> None:
        """Begin with what waits, as far as there is room."""
        batch: list[list[_Open]] = []
        rows = len(self._running)
        while self._waiting and (not rows or rows + len(self._waiting[0]) <= self._rows):
            batch.append(self._waiting.popleft())
            rows += len(batch[-1])
        if batch:
            begun = _Steering.of(self._leaves, self._policy, [answers[0].request for answers in batch])
            self._here = begun if self._here is None else self._here.join(begun)
            self._running += [each for answers in batch for each in answers]

    def _keep(self, rows: list[int]) -> None:
        """Go on with these running answers."""
        if len(rows) < len(self._running):
            self._running = [self._running[i] for i in rows]
            self._here = self._here.select(rows) if self._here is not None and rows else None

    def _ask(self, answer: _Open, listing: Listing) -> Said | TrimtabError:
        """Ask for the next token of an answer; runs in a thread."""
        one = replace(answer.settings, max_new_tokens=1, stop=())
        seed = answer.seeds[len(answer.tokens)]
        try:
            (said,) = self._completions.sample(answer.prefix, one, n=1, seed=seed, bias=listing.bias)
        except Refused as refused:
            return EndpointError(
                given=f"a bias on {len(listing.bias)} tokens that was refused: {refused.given}",
                expected="an endpoint that takes as many as when it was probed",
                hint="pass a smaller m=",
            )
        except TrimtabError as error:
            return error
        return said if said.ids or said.finish == "end" else _half(self._completions.can)

    def _take(self, answer: _Open, listing: Listing, said: Said | TrimtabError) -> FinishReason | None:
        """Write a token down; returns why the answer ends there, if it does."""
        if not isinstance(said, Said):
            return "error"
        settings, before = answer.settings, len(answer.tokens)
        answer.tokens += said.ids
        answer.listed += [listing.share] * len(said.ids)
        if settings.stop:
            length = self._stops.length(settings.stop, answer.tokens, before, 0)
            if length is not None:
                del answer.tokens[length:], answer.listed[length:]
                return "stop"
        if said.finish != "length":
            return "end"
        return "length" if len(answer.tokens) >= settings.max_new_tokens else None

    def _close(self, each: _Open, finish: FinishReason, error: TrimtabError | None = None) -> Update:
        """Turn an answer into the last word on it."""
        row = Row(each.request, 0, each.tokens, [], [], [], finish, error)
        answer = to_answer(row, self.vocabulary.decode(each.request.prompt), self.vocabulary, each.settings)
        return Update(each.ticket, each.number, answer.text, replace(answer, listed=tuple(each.listed)), error)


def _usable(can: Capabilities, vocabulary: Vocabulary, m: int | None) -> int:
    """Return how many tokens a bias names, or refuse what the endpoint does not take."""
    if m is not None and (isinstance(m, bool) or not isinstance(m, int) or m < 1):
        raise ConfigError(given=f"m={m!r}", expected="a whole number of at least 1", hint="services take 300")
    wanted = can.logit_bias if m is None else min(m, vocabulary.size)
    if can.logit_bias and (wanted <= can.logit_bias or can.logit_bias == max(BIASES)):  # it was asked for no more
        return wanted
    raise EndpointError(
        given=f"a bias on {can.logit_bias} tokens that {can.model} obeys ({can.evidence['logit_bias']})",
        expected=f"a bias on {wanted or 'some'} tokens by their ids",
        hint=f"pass m={can.logit_bias} or less" if can.logit_bias else "search with RemoteEngine instead",
    )


def _half(can: Capabilities) -> EndpointError:
    return EndpointError(
        given=f"a token of {can.model} that is no text of its own, such as half a character",
        expected="text that the next token can follow",
        hint="use an endpoint that names tokens by id, such as vLLM",
    )
