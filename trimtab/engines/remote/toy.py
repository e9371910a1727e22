"""An OpenAI-compatible endpoint over any policy, in this process: for tests, documentation, and trying before paying.

It samples answers as a server does, and knows the routes and settings that this room asks for.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import torch
from torch import Tensor

from trimtab.decoding.generate import to_answer
from trimtab.decoding.pool import decode
from trimtab.decoding.request import Request, Row, Settings
from trimtab.decoding.sampling import Sampling
from trimtab.policies.base import Policy
from trimtab.policies.toy import Table


@dataclass(frozen=True)
class ToyEndpoint:
    """Answers as an endpoint over a policy would; give it to ``httpx2.MockTransport``.

    Args:
        policy: what it serves.
        model: the name of the model.
        most: log-probs a token that it gives at most; with 0 it gives text alone.
        ids: whether it names tokens by id when asked to, takes prompts of ids, and says what stopped an answer, as vLLM
            does.
        chats: whether it has the route of chats, of one token; it has completions always.
        biases: tokens that a bias may name; 0 refuses every bias.
        several: whether it gives several answers a request.
        seeds: whether it heeds seeds.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> endpoint = ToyEndpoint(Table.of({"": {"heads": 0.75, "tails": 0.25}}))
        >>> endpoint.answer("models")[1]["data"]
        [{'id': 'toy'}]
        >>> endpoint.answer("completions", {"model": "toy", "prompt": "tails", "logprobs": 50})[0]
        400
        >>> body = {"model": "toy", "prompt": "tails", "max_tokens": 3, "temperature": 0}
        >>> endpoint.answer("completions", body)[1]["choices"][0]["text"]
        'heads heads heads'
    """

    policy: Policy
    model: str = "toy"
    most: int = 20
    ids: bool = True
    chats: bool = True
    biases: int = 300
    several: bool = True
    seeds: bool = True

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request."""
        content = request.read()
        status, answer = self.answer(request.url.path.removeprefix("/v1/"), json.loads(content) if content else None)
        return httpx2.Response(status, json=answer)

    def answer(self, route: str, body: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Return the status and the answer to a body that was posted to a route, or to getting it."""
        if route == "models" and body is None:
            return 200, {"data": [{"id": self.model}]}
        chat = route == "chat/completions"
        if body is None or not (route == "completions" or (chat and self.chats)):
            return _refuse(404, f"no route {route}")
        wanted = body.get("top_logprobs" if chat else "logprobs") or 0
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        if (wrong := self._wrong(body, prompt, wanted)) is not None:
            return wrong
        ids = tuple(self.policy.vocabulary.encode(prompt) if isinstance(prompt, str) else prompt)
        settings = self._settings(body)
        rows = decode(self._biased(body), [Request(ids, body.get("n", 1))], settings)
        choices = [self._choice(row, settings, chat=chat) for row in rows]
        for choice, row in zip(choices, rows, strict=True):
            if wanted:
                choice["logprobs"] = (self._chat_form if chat else self._form)(row, wanted, body)
        written = sum(len(row.tokens) for row in rows)
        return 200, {"choices": choices, "usage": {"prompt_tokens": len(ids), "completion_tokens": written}}

    def _wrong(self, body: Mapping[str, Any], prompt: object, wanted: int) -> tuple[int, dict[str, Any]] | None:
        """Return the refusal of what it does not do."""
        if body.get("model") != self.model:
            return _refuse(404, f"the model {body.get('model')!r} does not exist")
        if wanted > self.most:
            return _refuse(400, f"{wanted} log-probs are more than {self.most}")
        if not isinstance(prompt, str) and not self.ids:
            return _refuse(400, "a prompt is a text")
        if len(body.get("logit_bias") or {}) > self.biases:
            return _refuse(400, f"a bias on more than {self.biases} tokens")
        return None if self.several or body.get("n", 1) == 1 else _refuse(400, "n is 1")

    def _settings(self, body: Mapping[str, Any]) -> Settings:
        """Return how an answer is sampled."""
        stop = body.get("stop") or ()
        seed = body.get("seed") if self.seeds else None
        return Settings(
            Sampling(float(body.get("temperature", 1)), top_p=float(body.get("top_p", 1))),
            max_new_tokens=body.get("max_tokens") or body.get("max_completion_tokens") or 16,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            seed=secrets.randbits(31) if seed is None else seed,
        )

    def _biased(self, body: Mapping[str, Any]) -> Policy:
        """Return the policy under a bias: times a table of it."""
        bias = body.get("logit_bias") or {}
        if not bias:
            return self.policy
        vocabulary = self.policy.vocabulary
        weights = torch.zeros(vocabulary.size, dtype=torch.float64)
        for token, value in bias.items():
            weights[int(token)] = value
        return self.policy * Table(vocabulary, (((), tuple(weights.softmax(-1).tolist())),), "bias")

    def _choice(self, row: Row, settings: Settings, *, chat: bool) -> dict[str, Any]:
        """Return an answer without its log-probs."""
        vocabulary = self.policy.vocabulary
        text = to_answer(row, "", vocabulary, settings).text
        if vocabulary.tokenizer is not None:  # with the space, if there is one, between the prompt and it
            before, whole = vocabulary.decode(row.request.prompt), vocabulary.decode([*row.request.prompt, *row.tokens])
            text = whole[len(before) : len(whole) - len(vocabulary.decode(row.tokens))] + text
        choice: dict[str, Any] = {"finish_reason": "length" if row.finish == "length" else "stop"}
        choice |= {"message": {"content": text}} if chat else {"text": text}
        if self.ids and not chat:
            said = vocabulary.decode(row.tokens)
            named = (stop for stop in settings.stop if stop in said)
            choice["stop_reason"] = next(named, None) if row.finish == "stop" else None
        return choice

    def _rows(self, prefixes: Sequence[Sequence[int]]) -> Tensor:
        with torch.inference_mode():
            return self.policy.init(prefixes)[0].cpu()

    def _name(self, token: int, *, as_ids: bool) -> str:
        return f"token_id:{token}" if as_ids else self.policy.vocabulary.texts()[token]

    def _top(self, row: Tensor, k: int, *, as_ids: bool) -> dict[str, float]:
        """Return the k likeliest tokens; of equals, the lower id first. What is impossible is -9999, as vLLM has it."""
        values, order = row.sort(descending=True, stable=True)
        pairs = zip(order[:k].tolist(), values.clamp(min=-9999.0)[:k].tolist(), strict=True)
        return {self._name(i, as_ids=as_ids): value for i, value in pairs}

    def _form(self, row: Row, k: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return log-probs as completions do, of the prompt as well if it is to be echoed."""
        as_ids = self.ids and bool(body.get("return_tokens_as_token_ids"))
        prompt, whole = len(row.request.prompt), (*row.request.prompt, *row.tokens)
        first = 1 if body.get("echo") else prompt
        said = self._rows([whole[:end] for end in range(first, len(whole))])
        top: list[dict[str, float] | None] = [self._top(each, k, as_ids=as_ids) for each in said]
        pairs = zip(said[prompt - first :], row.tokens, strict=True)
        return {
            "top_logprobs": [None, *top] if body.get("echo") else top,
            "tokens": [self._name(token, as_ids=as_ids) for token in row.tokens],
            "token_logprobs": [max(float(each[token]), -9999.0) for each, token in pairs],
        }

    def _chat_form(self, row: Row, k: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return log-probs as chats do, of the first token."""
        (said,) = self._rows([row.request.prompt])
        top = [{"token": token, "logprob": value} for token, value in self._top(said, k, as_ids=False).items()]
        return {"content": [{**top[0], "top_logprobs": top}]}


def _refuse(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message}}
