"""An OpenAI-compatible endpoint over any policy, in this process: for tests, documentation, and trying before paying.

It writes one token an answer, the likeliest, and knows the routes and settings that the probe asks for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import torch
from torch import Tensor

from trimtab.policies.base import Policy


@dataclass(frozen=True)
class ToyEndpoint:
    """Answers as an endpoint over a policy would; give it to ``httpx2.MockTransport``.

    Args:
        policy: what it serves.
        model: the name of the model.
        most: log-probs a token that it gives at most.
        ids: whether it names tokens by id when asked to, and takes prompts of ids, as vLLM does.
        chats: whether it has the route of chats; it has completions always.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> endpoint = ToyEndpoint(Table.of({"": {"heads": 0.75, "tails": 0.25}}))
        >>> endpoint.answer("models")[1]["data"]
        [{'id': 'toy'}]
        >>> endpoint.answer("completions", {"model": "toy", "prompt": "tails", "logprobs": 50})[0]
        400
    """

    policy: Policy
    model: str = "toy"
    most: int = 20
    ids: bool = True
    chats: bool = True

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
        if body.get("model") != self.model:
            return _refuse(404, f"the model {body.get('model')!r} does not exist")
        wanted = body.get("top_logprobs" if chat else "logprobs") or 0
        if wanted > self.most:
            return _refuse(400, f"{wanted} log-probs are more than {self.most}")
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        if not isinstance(prompt, str) and not self.ids:
            return _refuse(400, "a prompt is a text")
        ids = self.policy.vocabulary.encode(prompt) if isinstance(prompt, str) else list(prompt)
        row = self._rows([ids])[0]
        token = _likeliest(row, body.get("logit_bias") or {})
        text = self.policy.vocabulary.texts()[token]
        choice: dict[str, Any] = {"message": {"content": text}} if chat else {"text": text}
        if wanted:
            choice["logprobs"] = self._chat_form(row, wanted) if chat else self._form(row, ids, wanted, body)
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
        return 200, {"choices": [choice] * body.get("n", 1), "usage": usage}

    def _rows(self, prefixes: list[list[int]]) -> Tensor:
        with torch.inference_mode():
            return self.policy.init(prefixes)[0].cpu()

    def _top(self, row: Tensor, k: int, *, as_ids: bool) -> dict[str, float]:
        """Return the k likeliest tokens; of equals, the lower id first. What is impossible is -9999, as vLLM has it."""
        values, order = row.sort(descending=True, stable=True)
        texts = self.policy.vocabulary.texts()
        return {
            f"token_id:{i}" if as_ids else texts[i]: value
            for i, value in zip(order[:k].tolist(), values.clamp(min=-9999.0)[:k].tolist(), strict=True)
        }

    def _form(self, row: Tensor, ids: list[int], k: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return log-probs as completions do, of the prompt as well if it is to be echoed."""
        as_ids = self.ids and bool(body.get("return_tokens_as_token_ids"))
        starts = [ids[: i + 1] for i in range(len(ids))] if body.get("echo") else [ids]
        rows = [*self._rows(starts[:-1]), row] if starts[:-1] else [row]
        said = [self._top(each, k, as_ids=as_ids) for each in rows]
        return {"top_logprobs": [None, *said] if body.get("echo") else said}

    def _chat_form(self, row: Tensor, k: int) -> dict[str, Any]:
        top = [{"token": token, "logprob": value} for token, value in self._top(row, k, as_ids=False).items()]
        return {"content": [{**top[0], "top_logprobs": top}]}


def _refuse(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message}}


def _likeliest(row: Tensor, bias: Mapping[str, float]) -> int:
    """Return the likeliest token under a bias."""
    row = row.clone()
    for token, value in bias.items():
        row[int(token)] += value
    return int(row.argmax())
