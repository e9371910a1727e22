"""What vLLM calls in each of its processes, whether or not it runs a policy; it must stay light."""

from __future__ import annotations

import os

from trimtab.engines.vllm.mixes import MIXES_VARIABLE
from trimtab.engines.vllm.plan import ARCHITECTURE


def register() -> None:
    """Make the model that holds all LMs of a policy known; it is imported when one is run."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(ARCHITECTURE, "trimtab.engines.vllm.inside.model:TrimtabForCausalLM")
    if MIXES_VARIABLE in os.environ:
        from trimtab.engines.vllm.inside.resolver import register_resolver

        register_resolver()
