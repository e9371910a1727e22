"""What makes mixes of vectors on demand in vLLM's server, and keeps clients from filling its memory with them."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import cached_property
from pathlib import Path
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from trimtab.engines.vllm.mixes import MIXES_VARIABLE, Mixes

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[..., Awaitable[Any]], Callable[..., Awaitable[Any]]], Awaitable[None]]

_CLOSED = frozenset({"load_lora_adapter", "unload_lora_adapter", "adapters"})
"""Parts of the routes by which clients could name paths; vLLM has two sets of them."""

_LAG = 64
"""Requests that end before the files of a mix go, after it was let go: what was aborted may still be read."""


class MixResolver(LoRAResolver):
    """Makes the adapter of a mix when a request names it as its model; vectors are read when the first one does.

    Args:
        told: what :func:`~trimtab.engines.vllm.serve.command` says of the vectors.
    """

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.told = told

    @cached_property
    def mixes(self) -> Mixes:
        """The vectors; their folder of adapters goes when this process ends."""
        room = Path(self.told["room"])
        atexit.register(shutil.rmtree, room, ignore_errors=True)
        return Mixes.load(self.told["folders"], room, step=self.told["step"])

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """Return the adapter of a mix, or None where there is none or too many are held, which becomes a status 404."""
        policy: str = self.told["policy"]
        coefficients = self.told["default"] if lora_name == policy else self.mixes.read(lora_name)
        if not coefficients or (self.mixes.room.is_dir() and len([*self.mixes.room.iterdir()]) > 4 * self.told["most"]):
            return None
        folder = await asyncio.to_thread(self.mixes.write, coefficients, self.told["base"])
        return LoRARequest(lora_name, 1, str(folder))  # the server numbers it anew


class MixKeeper:
    """Lets go of the oldest mixes beyond a number, and closes the routes that take paths from clients.

    vLLM keeps each name that was ever resolved. An adapter's files go some requests after all have ended that were
    running when it was let go, since vLLM may read them again for those.

    Args:
        app: the server.
    """

    def __init__(self, app: App) -> None:
        self.app, self.most = app, json.loads(os.environ[MIXES_VARIABLE])["most"]
        self.clock = 0
        self.running: set[int] = set()
        self.leaving: list[tuple[int, str]] = []

    async def __call__(self, scope: Scope, receive: Callable[..., Awaitable[Any]], send: Any) -> None:
        """Serve what is no request to change adapters."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif _CLOSED.intersection(scope["path"].split("/")):
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
            if clock + _LAG < oldest:
                shutil.rmtree(folder, ignore_errors=True)  # a file that cannot go takes disk, and harms nobody
        self.leaving = [(clock, folder) for clock, folder in self.leaving if clock + _LAG >= oldest]


def register_resolver() -> None:
    """Register the resolver of the vectors that the environment tells of."""
    if "trimtab" not in LoRAResolverRegistry.get_supported_resolvers():
        LoRAResolverRegistry.register_resolver("trimtab", MixResolver(json.loads(os.environ[MIXES_VARIABLE])))
