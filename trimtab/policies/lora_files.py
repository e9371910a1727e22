"""LoRA adapters as differences of weights: PEFT's files read into low-rank factors, and factors written as such files.

``delta W = scale * B A``, with scale alpha / r, or alpha / sqrt(r) of rank-stabilised LoRA; the scale goes into ``up``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors.torch import save_file
from torch import Tensor

from trimtab.errors import ModelError
from trimtab.policies.guide_folder import CONTROL_FILE, load_adapter_weights
from trimtab.policies.tensor_files import finite
from trimtab.policies.vector import LowRank

_PREFIX = "base_model.model."

# What a LoRA configuration may say and still be ``scale * B A`` added to the weights that are on disk.
_PLAIN = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out"),
    *("use_rslora", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
    *("eva_config", "ensure_weight_tying", "runtime_config", "qalora_group_size", "megatron_core"),
}
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def read_factors(folder: Path) -> dict[str, LowRank]:
    """Return the differences that a PEFT LoRA folder makes at strength 1, in float32.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Returns:
        Module name to factors.

    Raises:
        ModelError: it is no LoRA adapter, is more than low-rank factors, or is damaged.
    """
    if (folder / CONTROL_FILE).is_file():
        raise ModelError(
            given=f"the guide {folder}, which also has learned control tokens",
            expected="a change of weights alone",
            hint="use it as a guide: tt.LM.load(folder)",
        )
    return factors_of(_read_config(folder), load_adapter_weights(folder), str(folder))


def factors_of(config: LoraConfig, weights: Mapping[str, Tensor], where: str) -> dict[str, LowRank]:
    """Return the differences that an adapter makes at strength 1, in float32.

    Args:
        config: its shape.
        weights: its tensors, under the names of PEFT files.
        where: what messages call it.

    Raises:
        ModelError: its tensors are not those of low-rank factors of linear layers.
    """
    factors = {}
    for key, down in weights.items():
        module = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        other = key.replace(".lora_A.weight", ".lora_B.weight")
        if key.endswith(".lora_B.weight") and key.replace(".lora_B.", ".lora_A.") in weights:
            continue
        if not key.endswith(".lora_A.weight") or other not in weights:
            raise ModelError(
                given=f"the adapter {where} with the tensor {key!r}",
                expected="a lora_A.weight and a lora_B.weight for each linear layer, and nothing else",
                hint="merge it into its base with peft's merge_and_unload, and take the vector between the two models",
            )
        factors[module] = _scaled(config, module, down, weights[other], where)
    return factors


def write_factors(folder: Path, factors: Mapping[str, LowRank], base: str) -> None:
    """Write a PEFT LoRA folder that makes exactly these differences: every module's scale is 1.

    Args:
        folder: where to.
        factors: module name to factors, at least one.
        base: source of the base.
    """
    config, tensors = as_adapter(factors, base)
    config.save_pretrained(str(folder))
    checked = {key: finite(tensor.detach(), repr(key)).cpu().contiguous() for key, tensor in tensors.items()}
    save_file(checked, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def as_adapter(factors: Mapping[str, LowRank], base: str) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Return factors as a PEFT adapter whose every scale is 1: its configuration and its tensors.

    Args:
        factors: module name to factors, at least one.
        base: source of the base.
    """
    ranks = {name: each.rank for name, each in sorted(factors.items())}
    largest = max(ranks.values())
    smaller = {name: rank for name, rank in ranks.items() if rank != largest}
    config = LoraConfig(
        r=largest,
        lora_alpha=largest,
        target_modules=list(ranks),
        rank_pattern=dict(smaller),
        alpha_pattern=dict(smaller),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
    tensors: dict[str, Tensor] = {}
    for name, each in factors.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = each.down
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = each.up
    return config, tensors


def _scaled(config: LoraConfig, module: str, down: Tensor, up: Tensor, where: str) -> LowRank:
    """Check the factors of one module and put the scale into ``up``."""
    rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), module), config.r)
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), module), config.lora_alpha)
    if down.dim() != 2 or up.dim() != 2 or not rank == down.shape[0] == up.shape[1]:
        raise ModelError(
            given=f"{module!r} of the adapter {where} with factors {tuple(down.shape)} and {tuple(up.shape)}",
            expected=f"({rank}, in) and (out, {rank}), as its configuration says",
            hint="adapter_config.json and adapter_model.safetensors may be of different adapters",
        )
    scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    what = f"of {module!r} in {where}"
    return LowRank(finite(down, f"lora_A {what}").float(), finite(up, f"lora_B {what}").float() * scale)


def _read_config(folder: Path) -> LoraConfig:
    """Read an adapter's configuration and refuse what is not plain LoRA."""
    known = {each.name for each in fields(LoraConfig)}
    try:
        stated: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        kind, unknown = stated.get("peft_type"), [name for name in stated if stated[name] and name not in known]
        config = LoraConfig(**{name: value for name, value in stated.items() if name in known})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            given=f"{folder}/adapter_config.json, which cannot be read: {error}",
            expected="the configuration of a LoRA adapter",
            hint="save the adapter again with peft's save_pretrained",
        ) from error
    if kind != "LORA":
        raise ModelError(
            given=f"the {kind} adapter {folder}",
            expected="a LoRA adapter",
            hint="merge it into its base with peft's merge_and_unload, and take the vector between the two models",
        )
    if saved := stated.get("modules_to_save"):
        raise ModelError(
            given=f"the adapter {folder} with modules_to_save: {', '.join(map(str, saved))}",
            expected="differences of weights; these are weights that replace the base's, "
            "which stay at full strength whatever the vector is multiplied by",
            hint="merge the adapter into its base with peft's merge_and_unload, and take the vector between the models",
        )
    if more := [*(f"{name}={stated[name]}" for name in unknown), *_more_than_factors(config)]:
        raise ModelError(
            given=f"the adapter {folder} with {', '.join(more)}",
            expected="low-rank factors alone, added to the weights of the base as they are on disk",
            hint="merge it into its base with peft's merge_and_unload, and take the vector between the two models",
        )
    return config


def _more_than_factors(config: LoraConfig) -> list[str]:
    """Return the settings that make an adapter something else than low-rank factors on the base's own weights."""
    found = []
    for each in fields(config):
        value: Any = getattr(config, each.name)
        default = each.default if each.default is not MISSING else None
        if each.name not in _PLAIN and value and value != default:
            found.append(f"{each.name}={value}")
    start = config.init_lora_weights
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        found.append(f"init_lora_weights={start}, which changed the base before training")
    return found
