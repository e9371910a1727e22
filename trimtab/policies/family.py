"""Which models the lean forward pass of ``decoder.py`` computes: the Llama family, without what it would leave out."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from trimtab.policies.lowrank import Point

_FAMILY = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_STATIC_ROTATIONS = frozenset({"default", "linear", "llama3"})


def knows(model: PreTrainedModel) -> bool:
    """Return whether a model is of the family, without a variation that this pass does not compute."""
    if type(model) not in _FAMILY or any(map(_is_altered, model.modules())):
        return False
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    plain = kinds == {"full_attention"} and (type(model) is not MistralForCausalLM or config.sliding_window is None)
    rotation = (config.rope_parameters or {}).get("rope_type", "default")
    embeddings = type(model.get_input_embeddings()) is nn.Embedding
    head = type(model.get_output_embeddings()) is nn.Linear
    dtypes = {parameter.dtype for name, parameter in model.named_parameters() if "lora_" not in name}
    points = [point for layer in model.model.layers for point in projections(layer)]
    linear = all(type(module) is nn.Linear for point in points for module in point)
    known = len(dtypes) == 1 and torch.float64 not in dtypes
    return plain and rotation in _STATIC_ROTATIONS and embeddings and head and linear and known


def projections(layer: Any) -> list[Point]:
    """Return the projections of a layer, those that read one input together."""
    attention, mlp = layer.self_attn, layer.mlp
    return [
        [attention.q_proj, attention.k_proj, attention.v_proj],
        [attention.o_proj],
        [mlp.gate_proj, mlp.up_proj],
        [mlp.down_proj],
    ]


def base_of(module: Any) -> Any:
    """Return a projection without the adapters around it."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _is_altered(module: nn.Module) -> bool:
    """Return whether a module carries an adapter, a hook or another forward, which this pass would not run."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return isinstance(module, BaseTunerLayer) or bool(hooked)


def acts_on(module: BaseTunerLayer, adapter: str) -> bool:
    """Return whether an adapter has tensors on a module."""
    return any(adapter in getattr(module, kind, {}) for kind in module.adapter_layer_names)
