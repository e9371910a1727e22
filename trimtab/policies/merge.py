"""Putting vectors on a model: low-rank ones as adapters whose scale is free, any of them into a copy of the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trimtab.errors import ModelError
from trimtab.policies.vector import Vector


def vector_adapter(vector: Vector) -> str:
    """Return what the adapter of a vector is called on its trunk; equal vectors share one."""
    return f"v{vector.digest}"


def with_vectors(model: PreTrainedModel, source: str, amounts: Mapping[Vector, float]) -> PreTrainedModel:
    """Return a copy of a model with vectors added; what they do not change is shared with it.

    ``theta' = theta + sum_i lambda_i v_i``, added in float32 and rounded once.

    Args:
        model: the base; adapters on it are left out of the copy.
        source: what messages call it.
        amounts: the vectors and their coefficients.

    Raises:
        ModelError: a vector changes a tensor that the model does not have, or has in another shape.
    """
    sums, parameters = changed_tensors(model, source, amounts), own_tensors(model)
    changed = {id(parameters[name]) for name in sums}
    kept = [tensor for tensor in (*model.parameters(), *model.buffers()) if id(tensor) not in changed]
    copied = _without_adapters(copy.deepcopy(model, {id(tensor): tensor for tensor in kept}))
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if name in sums:
                parameter.copy_(sums[name])
    return copied


def changed_tensors(model: PreTrainedModel, source: str, amounts: Mapping[Vector, float]) -> dict[str, Tensor]:
    """Return the tensors of a model that vectors change, by name, with the vectors added, in float32.

    Args:
        model: the base; adapters on it are left out.
        source: what messages call it.
        amounts: the vectors and their coefficients.

    Raises:
        ModelError: a vector changes a tensor that the model does not have, or has in another shape.
    """
    parameters = own_tensors(model)
    turned = {name.replace(".base_layer", "") for name, module in model.named_modules() if isinstance(module, Conv1D)}
    sums: dict[str, Tensor] = {}

    def add(name: str, amount: float, change: Tensor) -> None:
        before = sums.get(name, parameters[name].detach().float())
        sums[name] = torch.add(before, change.to(before.device, torch.float32), alpha=amount)

    for vector, amount in amounts.items():
        check_fits(vector, model, source)
        for module, factors in vector.low_rank.items():
            change = factors.dense()
            add(f"{module}.weight", amount, change.t() if module in turned else change)
        for name in vector.dense:
            add(name, amount, vector.dense[name])
    return sums


def check_fits(vector: Vector, model: PreTrainedModel, source: str) -> None:
    """Refuse a vector that changes a tensor which a model does not have, or has in another shape.

    Raises:
        ModelError: it does.
    """
    parameters = own_tensors(model)
    shapes = {name: vector.dense[name].shape for name in vector.dense}
    for name in (*(f"{module}.weight" for module in vector.low_rank), *shapes):
        if name not in parameters:
            raise ModelError(
                given=f"{vector}, which changes {name!r}, on {source}, which has no such tensor",
                expected="a vector of this architecture, with the same tied or untied output layer",
                hint="take the vector from two models of this base",
            )
    for name, shape in shapes.items():
        if parameters[name].shape != shape:
            raise ModelError(
                given=f"{vector}, whose {name!r} has shape {tuple(shape)}, on one of {tuple(parameters[name].shape)}",
                expected="a vector of the same shapes",
                hint="take the vector from two models of this base",
            )


def own_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return a model's own tensors by their names without adapters; tied ones once."""
    named = model.named_parameters()
    return {name.replace(".base_layer.", "."): each for name, each in named if ".lora_" not in name}


def _without_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """Put the plain layers back in the places of those with adapters."""
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.get_base_layer())
    model.__dict__.pop("peft_config", None)
    return model
