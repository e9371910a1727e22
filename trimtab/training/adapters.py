"""The shape of a fresh LoRA adapter, checked against the model it goes on."""

from __future__ import annotations

from peft import LoraConfig
from torch import nn

from trimtab.errors import ConfigError
from trimtab.training.settings import AdapterShape


def lora_config(model: nn.Module, shape: AdapterShape, source: str) -> LoraConfig:
    """Return what PEFT wants to know of an adapter.

    Args:
        model: what it goes on.
        shape: rank, scale and targets.
        source: of the model, for messages.

    Raises:
        ConfigError: a target is no linear module of the model.
    """
    matrices = (name for name, weight in model.named_parameters(remove_duplicate=False) if weight.ndim == 2)
    modules = {name.removesuffix(".weight").removesuffix(".base_layer").split(".")[-1] for name in matrices}
    targets = [shape.targets] if isinstance(shape.targets, str) else shape.targets
    if shape.targets != "all-linear" and (isinstance(shape.targets, str) or not targets or set(targets) - modules):
        raise ConfigError(
            given=f"adapter.targets with {sorted(set(targets) - modules) or shape.targets!r}",
            expected=f"a list of names of linear modules of {source}, or all-linear",
            hint="use all-linear",
        )
    return LoraConfig(r=shape.rank, lora_alpha=shape.alpha, target_modules=shape.targets, task_type="CAUSAL_LM")
