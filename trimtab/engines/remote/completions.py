"""Answers that an endpoint samples itself: asks for some, and reads them as tokens of a vocabulary.

It goes by what the probe has found. Settings that endpoints lack or understand otherwise are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.decoding.answer import FinishReason
from trimtab.decoding.request import Request, Settings
from trimtab.decoding.sampling import Sampling
from trimtab.engines.remote.capabilities import Capabilities
from trimtab.engines.remote.client import Client
from trimtab.engines.remote.tokens import Tokens
from trimtab.engines.remote.wire import AS_IDS, choices_of
from trimtab.errors import ConfigError, EndpointError, PromptError
from trimtab.policies.vocabulary import Vocabulary


@dataclass(frozen=True)
class Said:
    """One sampled answer.

    Args:
        ids: its tokens; where the endpoint names them, these, and the end token among them.
        log_probs: of each under the endpoint's model, in nats; empty where the endpoint does not name its tokens.
        text: without the stop text.
        finish: "end", "stop" or "length". An endpoint that says no more than that it stopped is taken at its word: by
            a stop text where there are some, by the end otherwise.
    """

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    text: str
    finish: FinishReason


@dataclass(frozen=True)
class Completions:
    """Samples from one model behind one endpoint.

    Args:
        client: talks to it.
        vocabulary: of the model.
        can: what the endpoint can do with it.

    Raises:
        EndpointError: it cannot continue a text.

    Example:
        >>> import httpx2
        >>> from trimtab.engines.remote import ToyEndpoint, probe
        >>> from trimtab.policies.toy import Table
        >>> table = Table.of({"": {"heads": 0.75, "tails": 0.25}})
        >>> client = Client("http://toy/v1", transport=httpx2.MockTransport(ToyEndpoint(table)))
        >>> asks = Completions(client, table.vocabulary, probe(client, "toy", table.vocabulary))
        >>> said = asks.sample((1,), Settings(Sampling(temperature=0), max_new_tokens=3), n=2, seed=0)
        >>> [each.text for each in said], said[0].ids, said[0].finish
        (['heads heads heads', 'heads heads heads'], (0, 0, 0), 'length')
    """

    client: Client
    vocabulary: Vocabulary
    can: Capabilities

    def __post_init__(self) -> None:
        if not self.can.completions:
            raise EndpointError(
                given=f"{self.can.model}, which does not continue a text ({self.can.evidence['completions']})",
                expected="an endpoint with completions",
                hint="a chat cannot go on from a given text: use another endpoint, such as vLLM",
            )

    @property
    def tokens(self) -> Tokens:
        """How it reads and writes tokens."""
        return Tokens(self.vocabulary, self.can.token_form)

    @property
    def by_id(self) -> bool:
        """Whether the endpoint names the tokens of its answers by id, stop texts and end tokens included."""
        return self.can.token_form == "id" and self.can.top_k > 0

    def check(self, request: Request, settings: Settings) -> None:
        """Refuse what an endpoint would not do.

        Raises:
            ConfigError: a setting that completions lack, or keywords.
            PromptError: the prompt has no tokens, ids that are none, or does not fit in the context.
        """
        plain = Sampling(settings.sampling.temperature, top_p=settings.sampling.top_p)
        others = [name for name, value in vars(settings.sampling).items() if value != getattr(plain, name)]
        others += ["min_new_tokens"] if settings.min_new_tokens else []
        others += ["token ids among the stops"] if settings.stop_ids else []
        others += ["keywords"] if request.keywords is not None else []
        if others:
            raise ConfigError(
                given=f"{others[0]} for answers that {self.can.model} samples behind its endpoint",
                expected="max_new_tokens, temperature, top_p, stop texts and a seed, which all endpoints know alike",
                hint="leave it out, or take tt.Remote where the endpoint gives log-probabilities: it samples here",
            )
        size, length = self.vocabulary.size, len(request.prompt)
        if not length or not all(0 <= token < size for token in request.prompt):
            raise PromptError(
                given=f"a prompt of {length} ids, {list(request.prompt[:8])}...",
                expected=f"at least one token id, each from 0 to {size - 1}",
                hint="encode the prompt with the engine's own vocabulary",
            )
        longest = self.can.context_length
        if longest is not None and length + settings.max_new_tokens > longest:
            raise PromptError(
                given=f"a prompt of {length} tokens with {settings.max_new_tokens} new tokens",
                expected=f"at most {longest} tokens together, the context of {self.can.model}",
                hint="shorten the prompt or lower max_new_tokens",
            )

    def sample(
        self, prompt: tuple[int, ...], settings: Settings, *, n: int, seed: int, bias: Mapping[int, float] | None = None
    ) -> list[Said]:
        """Ask once for n answers; n is 1 where the endpoint gives one a request.

        Args:
            prompt: token ids.
            settings: that :meth:`check` has let pass; their seed is not used.
            n: number of answers.
            seed: below 2^31, of these answers.
            bias: added to the logits of these tokens, from -100 to 100.

        Returns:
            At most n answers; fewer where fewer came back.

        Raises:
            EndpointError: the endpoint is down, slow or overloaded, or its answer has another form.
            ConfigError: it does not take the key.
            VocabularyError: the tokenizer cannot write what it said.
        """
        sampling = settings.sampling
        body: dict[str, Any] = {
            "model": self.can.model,
            "prompt": prompt if self.can.token_prompts else self.tokens.write(prompt),
            "max_tokens": settings.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        body |= {"n": n} if n > 1 else {}
        body |= {"stop": list(settings.stop)} if settings.stop else {}
        body |= {"seed": seed} if self.can.seed else {}
        body |= {"logit_bias": {str(token): value for token, value in bias.items()}} if bias else {}
        body |= {"logprobs": 1, **AS_IDS} if self.by_id else {}
        answer = self.client.ask("completions", body)
        return [self._read(choice, prompt, settings) for choice in choices_of(answer)[:n]]

    def _read(self, choice: Mapping[str, Any], prompt: tuple[int, ...], settings: Settings) -> Said:
        text, finish = str(choice.get("text") or ""), choice.get("finish_reason")
        if finish not in ("stop", "length"):
            raise EndpointError(
                given=f"an answer of {self.can.model} that ended by {finish!r}",
                expected="one that ended by stop or length",
                hint="a filter of the service may have cut it; ask something else",
            )
        if self.by_id:
            ids, log_probs = self._named(choice)
        else:
            text = text.rstrip("\N{REPLACEMENT CHARACTER}")  # half a character, whose other half never came
            ids, log_probs = self.tokens.spell(prompt, text), ()
        if finish == "length":
            return Said(ids, log_probs, text, "length")
        ended = bool(ids) and ids[-1] in self.vocabulary.end_ids
        named = choice.get("stop_reason", settings.stop)  # vLLM: the text that stopped it, None where the end did
        return Said(ids, log_probs, text, "stop" if named and not ended else "end")

    def _named(self, choice: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return the tokens that the endpoint names, with their log-probabilities."""
        said = choice.get("logprobs")
        names, values = (said.get(key) if isinstance(said, Mapping) else None for key in ("tokens", "token_logprobs"))
        numbers = [value for value in values or () if isinstance(value, int | float) and not math.isnan(value)]
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            names = None
        if names is None or not isinstance(values, list) or not len(names) == len(values) == len(numbers):
            raise EndpointError(
                given=f"an answer of {self.can.model} without its tokens and a log-probability for each",
                expected="tokens by id, as the endpoint gave them when it was probed",
                hint="its replicas may be of different versions; probe each one alone",
            )
        return self.tokens.ids(names), tuple(map(float, numbers))
