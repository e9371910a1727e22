"""A model behind an endpoint as a policy: what the endpoint says of its likeliest tokens, and nothing else.

One request a token and row; those of a step run at once. It is Lu et al.'s (2023) road for GPT-3: the k tokens that
come back are renormalised, and a product with it ranks them anew. There all others get a logit of -50000; here they are
impossible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trimtab.engines.remote.capabilities import Capabilities
from trimtab.engines.remote.client import Client, client_of
from trimtab.engines.remote.meter import Meter
from trimtab.engines.remote.probe import MOST, probe
from trimtab.engines.remote.tokens import Read, Tokens
from trimtab.engines.remote.wire import AS_IDS, one_token, top_of
from trimtab.engines.tokenizer import load_vocabulary
from trimtab.errors import ConfigError, EndpointError, PolicyError, VocabularyError
from trimtab.policies.base import Leaf, Policy, Prompt
from trimtab.policies.knob import Knob, KnobValues
from trimtab.policies.lm import resolve_device
from trimtab.policies.model_source import EndpointSource
from trimtab.policies.vocabulary import Vocabulary


class Remote(Leaf):
    """A model that an OpenAI-compatible endpoint serves, as a policy over the k likeliest tokens that it returns.

        pi(y | s) = p(y | s) / m(s) for the k tokens that come back, and 0 for all others; m(s) is what those k hold

    It is ``top_k(model, k)`` of a model elsewhere: it multiplies, with positive exponents, and is decoded as any
    policy. KL is measured from the model itself, which the k tokens are enough to know, and answers carry the mass m
    that they cover (``Answer.covered``). Nothing can be divided by it, and it is part of no mixture: both need the
    probabilities of the tokens that did not come back.

    Args:
        endpoint: where the routes begin, such as ``http://localhost:8000/v1``, or a client of your own. Policies of one
            address and key share one client, and so one limit and one meter.
        model: the model's name there.
        tokenizer: of that model: built-in name, folder, hub id, or the vocabulary of a policy in memory.
        key: name of the environment variable that holds the key; None sends none.
        k: log-probs a token to ask for; by default as many as come back, at most 100.
        name: what messages call it; the model's name by default.
        device: where its log-probs go: "auto" is where LMs go by default.

    Raises:
        ConfigError: the address, k or the key is wrong.
        ModelError: the endpoint does not know the model, or there is no such tokenizer.
        VocabularyError: the endpoint's ids mean other tokens than the tokenizer's.
        EndpointError: the endpoint is down, slow or overloaded; or it returns no log-probs of completions, or fewer
            than k.

    Example:
        >>> import httpx2
        >>> from trimtab.engines.remote.toy import ToyEndpoint
        >>> from trimtab.policies.toy import Table
        >>> table = Table.of({"": {"a": 0.6, "b": 0.2, "c": 0.2}})
        >>> client = Client("http://toy/v1", transport=httpx2.MockTransport(ToyEndpoint(table)))
        >>> base = Remote(client, "toy", tokenizer=table.vocabulary, k=2, device="cpu")
        >>> base.next_log_probs(["a"]).exp()
        tensor([[0.7500, 0.2500, 0.0000]])
        >>> guide = Table.of({"": {"a": 0.1, "b": 0.3, "c": 0.6}}, name="guide")
        >>> answer = (base * guide).generate("a", max_new_tokens=1, temperature=0)[0]
        >>> answer.text, answer.covered  # 0.6 * 0.1 : 0.2 * 0.3, and of equals the first
        ('a', (0.8...,))

    Reference: Lu et al. (2023), Inference-Time Policy Adapters.
    """

    def __init__(
        self,
        endpoint: str | Client,
        model: str,
        *,
        tokenizer: str | Path | Vocabulary,
        key: str | None = None,
        k: int | None = None,
        name: str | None = None,
        device: str = "auto",
    ) -> None:
        client = client_of(endpoint, key)
        self._vocabulary = tokenizer if isinstance(tokenizer, Vocabulary) else load_vocabulary(tokenizer)
        self._capabilities = probe(client, model, self._vocabulary)
        self._host = _Host(
            client,
            model,
            Tokens(self._vocabulary, self._capabilities.token_form),
            _usable(self._capabilities, self._vocabulary, k),
            as_ids=self._capabilities.token_prompts,
            device=torch.device(resolve_device(device)),
        )
        self._name = name or model
        self._identity = (client.url, model, self._vocabulary.fingerprint, self._host.k)

    @property
    def k(self) -> int:
        """Log-probs a token that it asks for."""
        return self._host.k

    @property
    def capabilities(self) -> Capabilities:
        """What the endpoint can do."""
        return self._capabilities

    @property
    def meter(self) -> Meter:
        """What its client has used so far, the probe included."""
        return self._host.client.meter

    @property
    def unknown(self) -> int:
        """How many of the tokens that came back so far were none of its vocabulary, or could be several."""
        return self._host.unknown

    @property
    def recut(self) -> int:
        """How many prefixes so far were sent as a text that its tokenizer cuts into other tokens than those drawn.

        The endpoint goes on from the tokens that it cuts. Prompts of ids are never cut anew.
        """
        return self._host.recut

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens of its tokenizer."""
        return self._vocabulary

    @property
    def reference(self) -> Policy:
        """The model itself, as far as it is known."""
        return Uncut(self)

    @property
    def cuts(self) -> bool:
        """It keeps out what did not come back."""
        return True

    @property
    def partial(self) -> bool:
        """It knows k tokens."""
        return True

    @property
    def host(self) -> _Host:
        """Who asks for it."""
        return self._host

    @property
    def name(self) -> str:
        """What messages call it."""
        return self._name

    @property
    def context_length(self) -> int | None:
        """The context that the endpoint tells, or None where it tells none."""
        return self._capabilities.context_length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        url, model, _, k = self._identity
        return f"Remote({url!r}, {model!r}, k={k})"


@dataclass(frozen=True)
class Uncut(Policy):
    """A remote model as it is: the log-probabilities of the tokens that came back, not renormalised.

    What did not come back is not impossible but unknown, so probabilities sum to the covered mass. That is all that the
    KL of a policy on those tokens needs.

    Args:
        remote: the model over the tokens that came back.
    """

    remote: Remote

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens of the model."""
        return self.remote.vocabulary

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """It has none."""
        return ()

    @property
    def reference(self) -> Policy:
        """It is its own reference."""
        return self

    @property
    def cuts(self) -> bool:
        """It keeps nothing out on purpose."""
        return False

    def leaves(self, knobs: KnobValues) -> tuple[Leaf, ...]:
        """Return the remote model."""
        return (self.remote,)

    def combine(self, leaf_logits: Mapping[Leaf, Tensor], knobs: KnobValues) -> Tensor:
        """Return what came back."""
        return leaf_logits[self.remote]

    def diagnose(self, leaf_logits: Mapping[Leaf, Tensor], knobs: KnobValues) -> PolicyError | None:
        """Say whether it gave NaN."""
        return self.remote.diagnose(leaf_logits, knobs)

    def __str__(self) -> str:
        return f"uncut {self.remote}"


@dataclass(frozen=True)
class Prefixes:
    """The tokens that each row has been fed; the endpoint holds nothing."""

    rows: tuple[tuple[int, ...], ...]

    def select(self, rows: Tensor) -> Prefixes:
        """Keep these rows, in this order."""
        return Prefixes(tuple(self.rows[row] for row in rows.tolist()))

    def rollback(self, dropped: Tensor) -> Prefixes:
        """Forget the last tokens of each row."""
        return Prefixes(tuple(row[: len(row) - n] for row, n in zip(self.rows, dropped.tolist(), strict=True)))

    def join(self, other: Prefixes) -> Prefixes:
        """Append the rows of another state."""
        return Prefixes(self.rows + other.rows)


class _Host:
    """Asks for the next token of prefixes."""

    def __init__(
        self, client: Client, model: str, tokens: Tokens, k: int, *, as_ids: bool, device: torch.device
    ) -> None:
        self.client, self.model, self.tokens, self.k = client, model, tokens, k
        self.as_ids, self.device = as_ids, device
        self.unknown = self.recut = 0

    def init(self, leaves: Sequence[Remote], prompts: Sequence[Prompt], knobs: KnobValues) -> tuple[Tensor, Prefixes]:
        state = Prefixes(tuple(tuple(prompt) for prompt in prompts))
        return self._ask(state.rows).unsqueeze(0), state

    def step(self, state: Prefixes, tokens: Tensor) -> tuple[Tensor, Prefixes]:
        fed = Prefixes(tuple((*row, *new) for row, new in zip(state.rows, tokens.tolist(), strict=True)))
        width = tokens.shape[1]
        logits = self._ask([row[: len(row) - width + t + 1] for row in fed.rows for t in range(width)])
        return logits.view(1, len(fed.rows), width, -1) if width else logits.view(1, len(fed.rows), 0, self._size), fed

    @property
    def _size(self) -> int:
        return self.tokens.vocabulary.size

    def _ask(self, prefixes: Sequence[tuple[int, ...]]) -> Tensor:
        """Return the log-probs of the tokens that come back after each prefix, -inf for the others; (N, V)."""
        different = list(dict.fromkeys(prefixes))
        table = torch.full((len(different), self._size), -torch.inf)
        prompts = [prefix if self.as_ids else self.tokens.write(prefix) for prefix in different]
        for row, read in zip(table, self.client.map(self._next, prompts), strict=True):
            row[torch.tensor(read.ids)] = torch.tensor(read.log_probs)
            self.unknown += read.unknown
        for prefix, prompt in zip(different, prompts, strict=True):
            self.recut += isinstance(prompt, str) and tuple(self.tokens.vocabulary.encode(prompt)) != prefix
        numbers = {prefix: number for number, prefix in enumerate(different)}
        return table.to(self.device)[[numbers[prefix] for prefix in prefixes]]

    def _next(self, prompt: str | tuple[int, ...]) -> Read:
        """Ask for what may follow a prompt."""
        settings = AS_IDS if self.tokens.form == "id" else {}
        answer = self.client.ask("completions", one_token(self.model, prompt) | {"logprobs": self.k} | settings)
        top = top_of(answer)[: self.k]  # vLLM adds the token it drew where that is not among the k likeliest
        read = self.tokens.read(top)
        if read.spoken < self.k:
            raise EndpointError(
                given=f"{len(top)} log-probs from {self.model}, which was asked for {self.k}",
                expected="as many as it gave when it was probed",
                hint="pass a smaller k=; replicas of different versions, and answers that end at once, give fewer",
            )
        if not read.ids:
            raise VocabularyError(
                given=f"the tokens {[token for token, _ in top[:5]]} of {self.model}",
                expected="tokens of its tokenizer, at least one of them",
                hint="pass tokenizer= the model's own folder or hub id",
            )
        return read


def connect(source: EndpointSource, *, device: str = "auto") -> Remote:
    """Return the policy that a policy file's endpoint stands for; ``file.build(tt.LM.load, connect)`` takes it.

    Args:
        source: of the file.
        device: where log-probs go.

    Raises:
        TrimtabError: as :class:`Remote`.
    """
    return Remote(source.endpoint, source.model, tokenizer=source.tokenizer, key=source.key, k=source.k, device=device)


def _usable(can: Capabilities, vocabulary: Vocabulary, k: int | None) -> int:
    """Return how many log-probs to ask for, or refuse what the endpoint cannot give."""
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
        raise ConfigError(given=f"k={k!r}", expected="a whole number of at least 1", hint="services give 20 or 100")
    wanted = can.top_k if k is None else min(k, vocabulary.size)
    if can.top_k and (wanted <= can.top_k or can.top_k == MOST):  # the probe asked for no more than that
        return wanted
    seen = can.evidence.get("top_k") or can.evidence["completions"]
    raise EndpointError(
        given=f"{can.top_k or 'no'} log-probs a token from {can.model} ({seen})",
        expected=f"{wanted or 'some'} log-probs a token of completions, which is what going on token by token takes",
        hint=f"pass k={can.top_k} or less" if can.top_k else "use an endpoint that returns them, such as vLLM",
    )
