"""What makes mixes of vectors on demand in vLLM's server, and keeps clients from filling its memory with them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from trimtab.engines.vllm.mixes import MIXES_VARIABLE, Mixes

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[..., Awaitable[Any]], Callable[..., Awaitable[Any]]], Awaitable[None]]

_CLOSED = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")


class MixResolver(LoRAResolver):
    """Makes the adapter of a mix when a request names it as its model.

    Args:
        mixes: of the policy's vectors.
        base: source of the first LM.
        policy: the name under which the policy's own coefficients are asked for.
        default: the mix that it stands for.
    """

    def __init__(self, mixes: Mixes, base: str, policy: str, default: Mapping[str, float]) -> None:
        self.mixes, self.base, self.policy, self.default = mixes, base, policy, default

    @staticmethod
    def of_environment() -> MixResolver | None:
        """Return the resolver that ``trimtab vllm`` asked for, or None."""
        text = os.environ.get(MIXES_VARIABLE)
        if text is None:
            return None
        told = json.loads(text)
        mixes = Mixes.load(told["folders"], Path(told["room"]), step=told["step"])
        return MixResolver(mixes, told["base"], told["policy"], told["default"])

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """Return the adapter of a mix, or None where there is no such mix, which becomes a status 404."""
        coefficients = self.default if lora_name == self.policy else self.mixes.read(lora_name)
        if not coefficients:
            return None
        return LoRARequest(lora_name, 1, str(self.mixes.write(coefficients, self.base)))  # the server numbers it anew


class MixKeeper:
    """Lets go of the oldest mixes beyond a number, and closes the routes that take paths from clients.

    vLLM keeps each name that was ever resolved. An adapter's files go when all requests have ended that were running
    when it was let go, since vLLM may read them again for those.

    Args:
        app: the server.
        most: mixes that are kept.
    """

    def __init__(self, app: App, most: int | None = None) -> None:
        told = json.loads(os.environ[MIXES_VARIABLE])
        self.app, self.most = app, most or told["most"]
        self.clock = 0
        self.running: set[int] = set()
        self.leaving: list[tuple[int, str]] = []

    async def __call__(self, scope: Scope, receive: Callable[..., Awaitable[Any]], send: Any) -> None:
        """Serve what is no request to change adapters."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] in _CLOSED:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Callable[..., Awaitable[Any]], send: Any) -> None:
        """Serve a request, and let go of mixes when it has ended."""
        self.clock += 1
        started = self.clock
        self.running.add(started)
        try:
            await self.app(scope, receive, send)
        finally:
            self.running.remove(started)
            self._let_go(scope["app"].state.openai_serving_models)

    def _let_go(self, models: Any) -> None:
        """Forget the oldest mixes, and delete those that no running request can need."""
        requests = models.lora_requests
        for name in [*requests][: max(0, len(requests) - self.most)]:
            self.leaving.append((self.clock, requests.pop(name).lora_path))
        locks = models.lora_resolver_lock
        for name in [name for name, lock in locks.items() if name not in requests and not lock.locked()]:
            del locks[name]
        oldest = min(self.running, default=self.clock + 1)
        for clock, folder in self.leaving:
            if clock < oldest:
                shutil.rmtree(folder, ignore_errors=True)  # a file that cannot go takes disk, and harms nobody
        self.leaving = [(clock, folder) for clock, folder in self.leaving if clock >= oldest]


def register_resolver() -> None:
    """Register the resolver that ``trimtab vllm`` asked for, if it did."""
    resolver = MixResolver.of_environment()
    if resolver is not None and "trimtab" not in LoRAResolverRegistry.get_supported_resolvers():
        LoRAResolverRegistry.register_resolver("trimtab", resolver)
