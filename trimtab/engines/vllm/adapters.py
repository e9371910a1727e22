"""The LoRA adapters that an engine has made of mixes: as many as are in use, and the newest of the others."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Collection, Mapping
from itertools import count
from typing import TYPE_CHECKING

from trimtab.engines.vllm.launch import MOST
from trimtab.engines.vllm.mixes import Mixes

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest


class Adapters:
    """Makes the adapter of a mix when it is first asked for, and lets the oldest idle ones go.

    Args:
        mixes: that there can be; None where the policy has no vectors.
        base: that they are of.
        most: that are kept, beside those in use.
    """

    def __init__(self, mixes: Mixes | None, base: str, *, most: int = MOST) -> None:
        self._mixes, self._base, self._most = mixes, base, most
        self._made: OrderedDict[str, LoRARequest] = OrderedDict()
        self._numbers = count(1)

    def of(self, coefficients: Mapping[str, float], in_use: Collection[int]) -> LoRARequest | None:
        """Return the adapter of some coefficients, or None where the policy has no vectors.

        Coefficients of 0 have one as well: for rows without, vLLM 0.32's CPU kernels read the last slot's.

        Args:
            coefficients: vector to coefficient.
            in_use: numbers of the adapters whose requests are open.
        """
        if self._mixes is None:
            return None
        from vllm.lora.request import LoRARequest

        name = self._mixes.name(coefficients)
        if name not in self._made:
            folder = self._mixes.write(coefficients, self._base)
            self._made[name] = LoRARequest(name or "none", next(self._numbers), str(folder))
            self._let_go(name, in_use)
        self._made.move_to_end(name)
        return self._made[name]

    def _let_go(self, newest: str, in_use: Collection[int]) -> None:
        for name, request in [*self._made.items()]:
            if len(self._made) <= self._most:
                return
            if name != newest and request.lora_int_id not in in_use:
                del self._made[name]
                shutil.rmtree(request.lora_path)
