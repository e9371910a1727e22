"""What vLLM is started with to run a plan, in a process of ours or by its own server."""

from __future__ import annotations

from typing import Any

from trimtab.engines.vllm.mixes import Mixes
from trimtab.engines.vllm.plan import ARCHITECTURE, Plan

PROCESSOR = "trimtab.engines.vllm.inside.rows:RowExponents"
"""Who checks requests, and keeps the rows' exponents on the legacy model runner."""

SLOTS = 4
"""Mixes in one batch; vLLM sets memory aside for each, and further ones wait."""

MOST = 32
"""Mixes that are kept in memory."""

CPU_SHARE = 0.4
"""Share of a machine's memory that vLLM's CPU build may take; its own default is .92, which few machines have free."""


def engine_arguments(plan: Plan, mixes: Mixes | None, *, dtype: str = "auto", cpu: bool = False) -> dict[str, Any]:
    """Return vLLM's arguments for a plan, by their names in ``EngineArgs``.

    Args:
        plan: the LMs and their exponents.
        mixes: of vectors on the first LM, or None.
        dtype: to run in.
        cpu: whether it is vLLM's CPU build, where a seeded request whose prompt is read in pieces ends the engine.

    Example:
        >>> from trimtab.policies.knob import Exponent
        >>> engine_arguments(Plan(("base",), (Exponent.of(1.0),), 100), None)["model"]
        'base'
    """
    steered: dict[str, Any] = {
        "model": plan.models[0],
        "dtype": dtype,
        "hf_overrides": {"architectures": [ARCHITECTURE], "trimtab": plan.to_json()},
        "logits_processors": [PROCESSOR],
    }
    if cpu:
        steered |= {"enable_chunked_prefill": False, "gpu_memory_utilization": CPU_SHARE}
    if mixes is None:
        return steered
    return steered | {
        "enable_lora": True,
        "max_lora_rank": mixes.rank,
        "max_loras": SLOTS,
        "max_cpu_loras": MOST,
        # With a place for a LoRA on the output layer, vLLM 0.32 gives no log-probs of prompts.
        "lora_target_modules": list(mixes.targets),
    }
