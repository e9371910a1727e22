"""An engine of text: whole answers, or chunks of them, that an endpoint samples itself. It knows no policies.

One request a prompt where the endpoint gives several answers, as many at once as the client's limits allow.
"""

from __future__ import annotations

import weakref
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from trimtab.decoding.answer import Answer
from trimtab.decoding.request import Request, Settings
from trimtab.decoding.sampling import seed_of
from trimtab.engines.abilities import REMOTE_TEXT, Abilities
from trimtab.engines.base import Update
from trimtab.engines.remote.capabilities import Capabilities
from trimtab.engines.remote.client import Client, client_of
from trimtab.engines.remote.completions import Completions, Said
from trimtab.engines.remote.meter import Meter
from trimtab.engines.remote.probe import probe
from trimtab.engines.tokenizer import load_vocabulary
from trimtab.errors import EndpointError, TrimtabError
from trimtab.policies.knob import bind
from trimtab.policies.vocabulary import Vocabulary


@dataclass(frozen=True)
class _Asked:
    """Some of a request's answers, which are asked for together."""

    ticket: int
    request: Request
    settings: Settings
    numbers: range


class RemoteEngine:
    """Answers requests by what one model behind an endpoint says; it is never steered.

    Its answers have no log-probabilities under a reference and no KL, and log-probabilities only where the endpoint
    names tokens by id. It tells finished answers, and streams none. What is under way when a request is cancelled is
    paid for.

    Args:
        endpoint: where the routes begin, such as ``http://localhost:8000/v1``, or a client of your own.
        model: the model's name there.
        tokenizer: of that model: built-in name, folder, hub id, or a vocabulary.
        key: name of the environment variable that holds the key; None sends none.

    Raises:
        ConfigError: the address or the key is wrong.
        ModelError: the endpoint does not know the model, or there is no such tokenizer.
        VocabularyError: the endpoint's ids mean other tokens than the tokenizer's.
        EndpointError: the endpoint is down, slow or overloaded, or cannot continue a text.

    Example:
        >>> import httpx2
        >>> from trimtab.engines import generate
        >>> from trimtab.engines.remote.toy import ToyEndpoint
        >>> from trimtab.policies.toy import Table
        >>> table = Table.of({"": {"heads": 0.75, "tails": 0.25}})
        >>> client = Client("http://toy/v1", transport=httpx2.MockTransport(ToyEndpoint(table, most=0)))
        >>> engine = RemoteEngine(client, "toy", tokenizer=table.vocabulary)
        >>> answers = generate(engine, ["heads", "tails"], Settings(max_new_tokens=5, seed=0), n=2)
        >>> [len(answer.token_ids) for answer in answers], answers[0].kl
        ([5, 5, 5, 5], ())
    """

    def __init__(
        self, endpoint: str | Client, model: str, *, tokenizer: str | Path | Vocabulary, key: str | None = None
    ) -> None:
        client = client_of(endpoint, key)
        vocabulary = tokenizer if isinstance(tokenizer, Vocabulary) else load_vocabulary(tokenizer)
        self._completions = Completions(client, vocabulary, probe(client, model, vocabulary))
        self._threads = ThreadPoolExecutor(client.limits.concurrency, "trimtab-remote")
        weakref.finalize(self, self._threads.shutdown, wait=False, cancel_futures=True)
        self._open: dict[Future[list[Said]], _Asked] = {}
        self._cancelled: list[_Asked] = []
        self._tickets = 0

    @property
    def abilities(self) -> Abilities:
        """Those of an endpoint of text; chunks can be sampled up to a text where it names its tokens."""
        return replace(REMOTE_TEXT, stops=self._completions.by_id)

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
        """The tokens of the model."""
        return self._completions.vocabulary

    @property
    def busy(self) -> bool:
        """Whether answers are still to come."""
        return bool(self._open or self._cancelled)

    def close(self) -> None:
        """Ask for nothing more; it does so by itself when nothing uses it any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def submit(self, request: Request, settings: Settings, *, stream: bool = False) -> int:
        """Take a request on, and ask for its answers as soon as there is a place.

        Raises:
            ConfigError: a setting that endpoints lack, or keywords.
            KnobError: there are knobs, of which it has none.
            PromptError: the prompt has no tokens, or does not fit.
        """
        self._completions.check(request, settings)
        bind((), [request.knobs])
        ticket, self._tickets = self._tickets, self._tickets + 1
        together = request.n if self._completions.can.n else 1
        for first in range(0, request.n, together):
            asked = _Asked(ticket, request, settings, range(first, first + together))
            self._open[self._threads.submit(self._ask, asked)] = asked
        return ticket

    def cancel(self, ticket: int) -> None:
        """Let a request's answers go."""
        for future, asked in [each for each in self._open.items() if each[1].ticket == ticket]:
            future.cancel()
            del self._open[future]
            self._cancelled.append(asked)

    def step(self) -> list[Update]:
        """Wait for the next answers to arrive."""
        updates = [
            Update(asked.ticket, number, "", _answer(asked, self.vocabulary, None))
            for asked in self._cancelled
            for number in asked.numbers
        ]
        self._cancelled = []
        if updates or not self._open:
            return updates
        arrived, _ = wait(self._open, return_when=FIRST_COMPLETED)
        for future, asked in [each for each in self._open.items() if each[0] in arrived]:
            del self._open[future]
            updates += self._told(future, asked)
        return updates

    def _ask(self, asked: _Asked) -> list[Said]:
        """Ask for some answers; runs in a thread."""
        request, first = asked.request, asked.numbers[0]
        key = seed_of(asked.settings.seed, request.prompt, request.occurrence, first)
        seed = int(key.generate_state(1)[0]) >> 1
        return self._completions.sample(request.prompt, asked.settings, n=len(asked.numbers), seed=seed)

    def _told(self, future: Future[list[Said]], asked: _Asked) -> list[Update]:
        """Return the last word on some answers."""
        said: list[Said] = []
        error: TrimtabError | None = None
        try:
            said = future.result()
        except TrimtabError as caught:
            error = caught
        count = len(asked.numbers)
        error = error or EndpointError(
            given=f"{len(said)} answers from {self.capabilities.model}, which was asked for {count}",
            expected="as many as were asked for, as when it was probed",
            hint="ask for fewer at a time; services bound n",
        )
        updates = []
        for place, number in enumerate(asked.numbers):
            answer = _answer(asked, self.vocabulary, said[place] if place < len(said) else error)
            updates.append(
                Update(asked.ticket, number, answer.text, answer, error if answer.finish_reason == "error" else None)
            )
        return updates


def _answer(asked: _Asked, vocabulary: Vocabulary, said: Said | TrimtabError | None) -> Answer:
    """Return what was said as an answer; without anything said, one that was cancelled."""
    prompt = vocabulary.decode(asked.request.prompt)
    if isinstance(said, Said):
        return Answer(prompt, said.text, said.ids, said.log_probs, (), (), said.finish)
    return Answer(prompt, "", (), (), (), (), "cancelled" if said is None else "error")
