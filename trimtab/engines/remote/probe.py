"""Finding out what an endpoint can do with a model, by asking it: some twenty requests of a few tokens.

What counts is what comes back, not what is accepted: a bias has to change the answer, and log-probs are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from trimtab.engines.remote.capabilities import Capabilities, TokenForm
from trimtab.engines.remote.client import Client, Refused
from trimtab.engines.remote.tokens import Tokens, form_of
from trimtab.engines.remote.wire import AS_IDS, choices_of, one_token, positions_of, text_of, top_of
from trimtab.errors import EndpointError, ModelError, VocabularyError
from trimtab.policies.vocabulary import Vocabulary

MOST = 100
"""Log-probs a token that the probe asks for at most; IPA's road for GPT-3 used as many."""

BIASES = (1024, 300, 1)
"""Tokens of a bias that the probe tries, until it is taken; services take 300 or 1024, and vLLM any number."""

_known: WeakKeyDictionary[Client, dict[tuple[str, str], Capabilities]] = WeakKeyDictionary()


def probe(client: Client, model: str, vocabulary: Vocabulary) -> Capabilities:
    """Find out what an endpoint can do with a model; a client asks once and remembers.

    Args:
        client: talks to the endpoint.
        model: the model's name.
        vocabulary: the model's tokens.

    Returns:
        What it can do, with the evidence.

    Raises:
        ModelError: neither completions nor chats know the model.
        VocabularyError: the endpoint's ids mean other tokens than the vocabulary's.
        ConfigError: the endpoint does not take the key.
        EndpointError: it is down, slow or overloaded, or what it answers has another form.

    Example:
        >>> import httpx2
        >>> from trimtab.engines.remote.toy import ToyEndpoint
        >>> from trimtab.policies.toy import Table
        >>> table = Table.of({"": {"heads": 0.75, "tails": 0.25}})
        >>> client = Client("http://toy/v1", transport=httpx2.MockTransport(ToyEndpoint(table)))
        >>> print(probe(client, "toy", table.vocabulary))
        model           toy
        models          yes  1 listed
        completions     yes  status 200
        chat            yes  status 200
        top_k           2    2 for 12 asked
        chat_top_k      2    2 for 12 asked
        token_form      id   such as 'token_id:0'
        token_prompts   yes  the same likely tokens as after the text
        ...
    """
    found = _known.setdefault(client, {})
    key = (model, vocabulary.fingerprint)
    if key not in found:
        found[key] = _probe(_Trials(client, model, vocabulary))
    return found[key]


@dataclass
class _Trials:
    """Asks, and writes down what was seen."""

    client: Client
    model: str
    vocabulary: Vocabulary
    evidence: dict[str, str] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """A short text in the vocabulary."""
        return self.vocabulary.pieces[0] if self.vocabulary.pieces else "The capital of France is"

    def complete(self, name: str, **settings: Any) -> dict[str, Any] | None:
        """Ask for one token that goes on; None where it is refused."""
        return self.ask(name, "completions", one_token(self.model, self.prompt) | settings)

    def chat(self, name: str, **settings: Any) -> dict[str, Any] | None:
        """Ask for one token of a chat; None where it is refused."""
        body = {"model": self.model, "messages": [{"role": "user", "content": self.prompt}]}
        for length in ("max_tokens", "max_completion_tokens"):  # newer models refuse the first
            if (answer := self.ask(name, "chat/completions", body | {length: 1} | settings)) is not None:
                return answer
        return None

    def ask(self, name: str, route: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """Ask, and write down the refusal."""
        try:
            answer = self.client.ask(route, body)
        except Refused as refused:
            self.evidence[name] = refused.given
            return None
        self.evidence[name] = "status 200"
        return answer


def _probe(trials: _Trials) -> Capabilities:
    listed, context_length = _models(trials)
    completions = trials.complete("completions") is not None
    chat = trials.chat("chat") is not None
    if not (completions or chat):
        raise ModelError(
            given=f"the model {trials.model!r} at {trials.client.url}: {trials.evidence['completions']}",
            expected=f"one of {', '.join(listed)}" if listed else "a model that completions or chats know",
            hint="check the name of the model, and that the address ends where the routes begin, often /v1",
        )
    go_on = trials.complete if completions else trials.chat
    top_k = _largest(trials, "top_k", lambda k: trials.complete("top_k", logprobs=k)) if completions else 0
    chat_top_k = 0
    if chat:
        chat_top_k = _largest(trials, "chat_top_k", lambda k: trials.chat("chat_top_k", logprobs=True, top_logprobs=k))
    form, token_prompts = _tokens(trials, top_k) if top_k else ("text", False)
    several = _several(trials, go_on)
    return Capabilities(
        model=trials.model,
        models=bool(listed),
        completions=completions,
        chat=chat,
        top_k=top_k,
        chat_top_k=chat_top_k,
        token_form=form,
        token_prompts=token_prompts,
        logit_bias=_most_biases(trials, go_on),
        n=several,
        seed=_repeats(trials, several) if completions else False,
        echo=_echoes(trials) if top_k else False,
        context_length=context_length,
        evidence=trials.evidence,
    )


def _models(trials: _Trials) -> tuple[list[str], int | None]:
    """Return the models that are listed, and the context of the one that is asked for, where that is said."""
    answer = trials.ask("models", "models") or {}
    entries = answer.get("data")
    models = [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []
    if models:
        trials.evidence["models"] = f"{len(models)} listed"
    lengths = [each.get("max_model_len") for each in models if each.get("id") == trials.model]
    return [str(each.get("id")) for each in models], next((n for n in lengths if isinstance(n, int)), None)


def _largest(trials: _Trials, name: str, ask: Callable[[int], Mapping[str, Any] | None]) -> int:
    """Return the most log-probs that come back."""
    low, high, k = 0, MOST + 1, MOST
    while high - low > 1:
        answer = ask(k)
        if answer is None:
            high = k
        else:
            try:
                got = min(len(top_of(answer)), k)
            except EndpointError as error:  # what cannot be read is none
                trials.evidence[name] = error.given
                return 0
            trials.evidence[name] = f"{got} for {k} asked"
            if got < k:  # it gives what it has
                return got
            low = k
        k = (low + high) // 2
    if low:
        trials.evidence[name] = f"{low} for {low} asked" + (f", and {high} are refused" if high <= MOST else "")
    return low


def _tokens(trials: _Trials, k: int) -> tuple[TokenForm, bool]:
    """Return the form of tokens, and whether prompts may be ids; refuses ids that mean other tokens."""
    by_text = _top(trials.complete("token_form", logprobs=k))
    tokens = _top(trials.complete("token_form", logprobs=k, **AS_IDS)) or by_text
    form: TokenForm = "id" if tokens and all(form_of(token) == "id" for token in tokens) else "text"
    trials.evidence["token_form"] = f"such as {tokens[0]!r}" if tokens else "none came"
    checked = form == "text"
    if form == "id" and any(form_of(token) == "text" for token in by_text):
        texts, read = trials.vocabulary.texts(), Tokens(trials.vocabulary, form).read([(t, 0.0) for t in tokens])
        meant, checked = [texts[i] for i in read.ids], True
        if not _agree(meant, by_text):
            raise _other_tokens(trials, meant, by_text)
    ids = trials.vocabulary.encode(trials.prompt)
    answer = trials.complete("token_prompts", logprobs=k, prompt=ids, **(AS_IDS if form == "id" else {}))
    same = answer is not None and _agree(_top(answer), tokens)
    if answer is not None:
        trials.evidence["token_prompts"] = f"{'the same' if same else 'other'} likely tokens as after the text"
    if not (checked or same):
        raise _other_tokens(trials, ids, tokens)
    return form, same


def _top(answer: Mapping[str, Any] | None) -> list[str]:
    return [] if answer is None else [token for token, _ in top_of(answer)]


def _agree(some: Iterable[str], others: Iterable[str]) -> bool:
    """Return whether two lists of likely tokens are nearly the same; spaces at their ends aside."""
    a, b = ({text.strip() for text in texts} for texts in (some, others))
    return 2 * len(a & b) >= max(len(a), len(b))


def _other_tokens(trials: _Trials, meant: Sequence[object], said: list[str]) -> VocabularyError:
    return VocabularyError(
        given=f"a tokenizer whose ids mean {meant[:3]} where {trials.model} says {said[:3]}",
        expected="the tokenizer of that model",
        hint="pass tokenizer= the model's own folder or hub id",
    )


def _most_biases(trials: _Trials, go_on: Callable[..., dict[str, Any] | None]) -> int:
    """Return on how many tokens it takes a bias that makes it say what it would not: the prompt's last token again."""
    vocabulary = trials.vocabulary
    token = vocabulary.encode(trials.prompt)[-1]
    for count in sorted({min(each, vocabulary.size) for each in BIASES}, reverse=True):
        others = [i for i in range(count) if i != token][: count - 1]
        answer = go_on("logit_bias", logit_bias={str(token): 100, **{str(i): -1 for i in others}})
        if answer is None:
            continue
        said, wanted = text_of(answer).strip(), vocabulary.decode([token]).strip()
        trials.evidence["logit_bias"] = f"{said!r} with a bias of 100 on {wanted!r}, one of {count}"
        return count if said == wanted else 0
    return 0


def _repeats(trials: _Trials, several: bool) -> bool:
    """Return whether a seed makes a wild answer come again, and the answers of one request differ all the same."""
    settings = {"seed": 1, "temperature": 2, "max_tokens": 8, **({"n": 2} if several else {})}
    answers = [trials.complete("seed", **settings) for _ in range(2)]
    told = [[str(each.get("text")) for each in choices_of(answer)] for answer in answers if answer is not None]
    if len(told) < 2:
        return False
    first, second = told
    apart = len(set(first)) == len(first)
    trials.evidence["seed"] = "the same twice" if first == second else "different answers"
    if not apart:
        trials.evidence["seed"] = "the same answer several times in one request"
    return first == second and apart


def _several(trials: _Trials, go_on: Callable[..., dict[str, Any] | None]) -> bool:
    answer = go_on("n", n=2)
    if answer is None:
        return False
    count = len(choices_of(answer))
    trials.evidence["n"] = f"{count} answers for 2 asked"
    return count == 2


def _echoes(trials: _Trials) -> bool:
    answer = trials.complete("echo", echo=True, logprobs=1)
    if answer is None:
        return False
    count = len(positions_of(answer))
    trials.evidence["echo"] = f"log-probs of {count} tokens, one of them new"
    return count > 1
