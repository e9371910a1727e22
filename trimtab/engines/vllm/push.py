"""Weights that change while vLLM runs: what a policy in memory is started as, and what is sent of an LM afterwards.

An LM with an adapter runs in vLLM as a whole model that begins as the adapter's base. What is sent is tensors under the
names of the model's own files, in a safetensors file that every worker reads: it shards and fuses them as when it loads
a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trimtab.engines.vllm.layout import Layout, folder_of
from trimtab.engines.vllm.plan import Plan, factors
from trimtab.errors import ConfigError, RunError
from trimtab.policies.base import Policy
from trimtab.policies.lm import LM
from trimtab.policies.lora_files import factors_of
from trimtab.policies.merge import changed_tensors, own_tensors
from trimtab.policies.vector import Origin, Vector
from trimtab.policies.view import View

if TYPE_CHECKING:
    from vllm.config import VllmConfig

EXTENSION = "trimtab.engines.vllm.inside.worker.TakesWeights"
"""What vLLM's workers are extended by, where weights are to change."""

METHOD = "take_weights"
"""Its method."""


def lay_out_loaded(policy: Policy, dtype: torch.dtype) -> tuple[Layout, tuple[LM, ...]]:
    """Say what vLLM is started with to run a policy that is in memory.

    Args:
        policy: a product of LMs.
        dtype: to run in.

    Returns:
        The layout, and the LMs in its order. Each starts as its plain weights; adapters have to be sent.

    Raises:
        ConfigError: it is no product of LMs, or one of them has vectors, or a view or control token of its own.
    """
    found = factors(policy)
    leaves = tuple(leaf for leaf, _ in found if isinstance(leaf, LM) and leaf.view == View() and not leaf.vectors.parts)
    if len(leaves) < len(found):
        raise ConfigError(
            given=f"{policy} on vLLM",
            expected="a product of LMs without vectors, views and control tokens",
            hint="run it with the local engine",
        )
    models = tuple(folder_of(leaf.trunk.source) for leaf in leaves)
    plan = Plan(models, tuple(exponent for _, exponent in found), policy.vocabulary.size)
    return Layout(plan, policy.vocabulary, str(dtype).removeprefix("torch.")), leaves


def weights_of(lm: LM, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors in which an LM differs from the model that it is started as, by the names of its files.

    ``W + scale B A`` is added in float32 and rounded once. The other tensors of a changed layer's parent come along:
    vLLM fuses some of them into one, which it takes whole.

    Args:
        lm: with an adapter; without one, all of its weights are returned.
        dtype: that vLLM runs in.

    Raises:
        ModelError: the adapter is more than low-rank factors of linear layers.

    Example:
        >>> weights_of(LM.load("runs/demo/guide"), torch.bfloat16)  # doctest: +SKIP
    """
    trunk = lm.trunk
    own = own_tensors(trunk.model)
    if lm.adapter is None:
        sent: Mapping[str, Tensor] = own
    else:
        low_rank = factors_of(trunk.adapter_config(lm.adapter), trunk.adapter_weights(lm.adapter), lm.name)
        vector = Vector(low_rank, {}, Origin(trunk.identity, lm.name), lm.name)
        with torch.no_grad():
            changed = changed_tensors(trunk.model, trunk.source, {vector: 1.0})
        touched = {_unit(name) for name in changed}
        sent = {name: changed.get(name, tensor) for name, tensor in own.items() if _unit(name) in touched}
    return {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in sent.items()}


def check_pushable(config: VllmConfig, *, cpu: bool) -> None:
    """Refuse to change weights in a vLLM that would not take them, or would go on with the old ones.

    Args:
        config: of the running vLLM.
        cpu: whether it is the CPU build.

    Raises:
        ConfigError: it would.
    """
    if config.parallel_config.worker_extension_cls != EXTENSION:
        raise ConfigError(
            given="new weights for a vLLM whose workers take none",
            expected=f"worker_extension_cls={EXTENSION}",
            hint="start it with this argument",
        )
    if config.lora_config is not None:
        raise ConfigError(
            given="new weights for a vLLM with LoRA", expected="whole models alone", hint="leave enable_lora out"
        )
    if cpu and not config.model_config.enforce_eager:
        raise ConfigError(
            given="new weights for compiled code on a CPU, which holds packed copies of the old ones",
            expected="enforce_eager=True",
            hint="start vLLM with this argument",
        )


def push(engine: Any, name: str, file: Path) -> None:
    """Have every worker read new weights of an LM, then forget all prefixes.

    Args:
        engine: vLLM's own, without open requests.
        name: of the LM in the model.
        file: with the weights, where all workers can read it.

    Raises:
        RunError: vLLM has died, or keeps prefixes.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        engine.collective_rpc(METHOD, args=(name, str(file)))
        forgotten = engine.reset_prefix_cache()
    except EngineDeadError as error:
        raise RunError(given="vLLM, which has died", expected="a running engine", hint="see its log") from error
    if not forgotten:
        raise RunError(
            given="vLLM, which keeps keys and values of the old weights",
            expected="an empty prefix cache after new weights",
            hint="start it with enable_prefix_caching=False",
        )


def _unit(name: str) -> str:
    """Return the module whose tensors are sent together: the parent of a tensor's layer, or a layer without parent.

    Example:
        >>> _unit("model.layers.0.self_attn.q_proj.weight"), _unit("lm_head.weight")
        ('model.layers.0.self_attn', 'lm_head')
    """
    parts = name.split(".")
    return ".".join(parts[:-2] or parts[:-1])
