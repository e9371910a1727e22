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
        ConfigError: a target is no module of the model.
    """
    modules = {name.split(".")[-1] for name, _ in model.named_modules()}
    if not isinstance(shape.targets, str) and (unknown := sorted(set(shape.targets) - modules)):
        raise ConfigError(
            given=f"adapter.targets with {unknown}",
            expected=f"names of linear modules of {source}, or all-linear",
            hint="use all-linear",
        )
    return LoraConfig(r=shape.rank, lora_alpha=shape.alpha, target_modules=shape.targets, task_type="CAUSAL_LM")
